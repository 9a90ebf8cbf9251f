//! Libraries and executables made by hand, whole and damaged.

use std::io::Write;

use proptest::prelude::*;

use super::*;

const LOAD: u32 = 0x100_0000;
const ENTRY: u32 = 0x100_0123;
/// The image: one page of sevens.
const IMAGE: [u8; 4096] = [7; 4096];

/// Where the parts of the library made by [`library`] lie, in the file and in memory alike.
const CODE_AT: u64 = 0x200;
const SYMBOLS_AT: u64 = 0x300;
const STRINGS_AT: u64 = 0x400;
const SECTIONS_AT: u64 = 0x500;
const IMAGE_AT: u64 = 0x1000;

fn stores(values: &[u32]) -> Vec<u8> {
    let mut code = vec![0x55, 0x48, 0x89, 0xe5];
    for value in values {
        code.extend([0x48, 0x8b, 0x45, 0xf8, 0x48, 0xc7, 0x00]);
        code.extend(value.to_le_bytes());
    }
    code.extend([0x5d, 0xc3]);
    code
}

fn put(file: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let at = usize::try_from(at).unwrap();
    file.resize(file.len().max(at + bytes.len()), 0);
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn words(values: &[u64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn symbol_entry(name: u32, value: u64, size: u64) -> Vec<u8> {
    let mut entry = name.to_le_bytes().to_vec();
    entry.extend([0x12, 0, 1, 0]);
    entry.extend(words(&[value, size]));
    entry
}

fn section_entry(kind: u32, at: u64, size: u64, link: u32) -> Vec<u8> {
    let mut entry = vec![0, 0, 0, 0];
    entry.extend(kind.to_le_bytes());
    entry.extend(words(&[0, at, at, size]));
    entry.extend(link.to_le_bytes());
    entry.extend([0; 20]);
    entry
}

/// A shared object with the two symbols, its image of `size` bytes at [`IMAGE_AT`].
fn library(size: u32) -> Vec<u8> {
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend([3, 0, 62, 0, 1, 0, 0, 0]);
    file.extend(words(&[0, 64, SECTIONS_AT]));
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 3, 0, 0, 0]);
    // One segment that maps the whole file to itself.
    file.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    file.extend(words(&[0, 0, 0, 0x3000, 0x3000, 0x1000]));
    let code = stores(&[LOAD, ENTRY, size]);
    put(&mut file, CODE_AT, &code);
    let names = b"\0KERNEL_BUNDLE\0krunfw_get_kernel\0";
    put(&mut file, STRINGS_AT, names);
    let mut symbols = symbol_entry(0, 0, 0);
    symbols.extend(symbol_entry(1, IMAGE_AT, 0x2000));
    symbols.extend(symbol_entry(15, CODE_AT, code.len() as u64));
    put(&mut file, SYMBOLS_AT, &symbols);
    let mut sections = section_entry(0, 0, 0, 0);
    sections.extend(section_entry(
        SHT_DYNSYM,
        SYMBOLS_AT,
        symbols.len() as u64,
        2,
    ));
    sections.extend(section_entry(3, STRINGS_AT, names.len() as u64, 0));
    put(&mut file, SECTIONS_AT, &sections);
    put(&mut file, IMAGE_AT, &IMAGE);
    file
}

fn on_disk(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn reason(bytes: &[u8]) -> &'static str {
    match map(&on_disk(bytes)) {
        Err(KernelError::Format { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn finds_the_image_of_a_library() {
    let image = examine(&on_disk(&library(4096))).unwrap();
    let expected = KernelImage {
        offset: IMAGE_AT,
        size: 4096,
        load: LOAD.into(),
        entry: ENTRY.into(),
    };
    assert_eq!(image, expected);
}

#[test]
fn maps_the_image_rounded_up_to_huge_pages() {
    let kernel = map(&on_disk(&library(4096))).unwrap();
    assert_eq!(kernel.size as u64, HUGE_PAGE);
    assert_eq!(
        (kernel.guest_address, kernel.entry_address),
        (LOAD.into(), ENTRY.into())
    );
    assert_eq!(kernel.host_address % PAGE, 0);
}

#[test]
fn refuses_what_is_no_kernel() {
    assert_eq!(reason(&[0; 200]), "it is not a 64-bit ELF file");
    assert_eq!(reason(b"\x7fELF"), "a table lies outside of it");
    let mut foreign = library(4096);
    foreign[18] = 183;
    assert_eq!(reason(&foreign), "it is for another processor");
    let mut object = library(4096);
    object[16] = 1;
    assert_eq!(reason(&object), "it is no shared library");
}

#[test]
fn refuses_a_library_without_the_symbols() {
    let mut file = library(4096);
    put(&mut file, STRINGS_AT + 1, b"X");
    assert_eq!(reason(&file), "it lacks a libkrunfw symbol");
}

#[test]
fn refuses_a_size_beyond_the_symbol_or_an_entry_outside_the_image() {
    assert_eq!(
        reason(&library(0x2001)),
        "its load address is not plausible"
    );
    assert_eq!(reason(&library(0x100)), "its load address is not plausible");
    assert_eq!(reason(&library(0)), "its load address is not plausible");
}

#[test]
fn refuses_a_file_cut_short() {
    let file = library(4096);
    assert_eq!(reason(&file[..file.len() - 1]), "it is cut short");
}

#[test]
fn constants_come_from_exactly_three_stores() {
    let three = [LOAD, ENTRY, 0x149_0000];
    assert_eq!(
        stored_constants(&stores(&three)),
        Some(three.map(u64::from))
    );
    assert_eq!(stored_constants(&stores(&three[..2])), None);
    assert_eq!(stored_constants(&stores(&[1, 2, 3, 4])), None);
    assert_eq!(stored_constants(&stores(&three)[..30]), None);
    assert_eq!(stored_constants(&[]), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn damaged_libraries_never_panic(at in 0_usize..0x700, byte in any::<u8>()) {
        let mut file = library(4096);
        file[at] = byte;
        let _ = map(&on_disk(&file));
    }
}
