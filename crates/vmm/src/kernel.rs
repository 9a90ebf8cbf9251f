//! Maps the pinned guest kernel into this process, where the engine takes it from.
//!
//! The kernel is distributed as `libkrunfw.so.5`: a shared object that holds the loadable image as
//! the data symbol `KERNEL_BUNDLE` and a function `krunfw_get_kernel` that stores its guest load
//! address, entry point and size through three pointers. Nothing of it is executed here and no
//! library is loaded: the symbols are looked up in the file, the three constants are read out of
//! the function's instructions (`mov qword [rax], imm32`), and the image is mapped privately as
//! guest memory. So nothing is copied, pages nobody touches are never read, and VMs share the rest.
//!
//! Formats: System V ABI, "Object Files"; ELF-64 Object File Format 1.5.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Largest kernel file accepted, in bytes.
pub const MAX_KERNEL_FILE: u64 = 256 << 20;
/// Largest guest address a kernel may be loaded to or entered at.
const MAX_GUEST_ADDRESS: u64 = 1 << 30;
/// Most section headers looked at.
const MAX_SECTIONS: usize = 256;
/// Most bytes of the dynamic symbol and string tables looked at.
const MAX_TABLE: u64 = 1 << 20;
/// Most bytes of `krunfw_get_kernel` looked at.
const MAX_FUNCTION: u64 = 256;

/// Bytes of a page.
const PAGE: u64 = 4096;
const ELF_HEADER_LEN: usize = 64;
const PROGRAM_HEADER_LEN: usize = 56;
const SECTION_HEADER_LEN: usize = 64;
const SYMBOL_LEN: usize = 24;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const SHT_DYNSYM: u32 = 11;
const PT_LOAD: u32 = 1;
/// Bytes of a page that saves many small ones.
pub(crate) const HUGE_PAGE: u64 = 2 << 20;

/// Why a file is not a usable guest kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The file could not be read or copied.
    #[error("cannot read the guest kernel")]
    Io(#[from] io::Error),
    /// The file is not what it should be.
    #[error("the guest kernel file is not usable: {reason}")]
    Format {
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Where an image lies in its file and goes in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KernelImage {
    offset: u64,
    size: u64,
    load: u64,
    entry: u64,
}

/// A kernel mapped into this process for the rest of its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MappedKernel {
    /// Where it lies in this process.
    pub(crate) host_address: u64,
    /// Where it goes in the guest.
    pub(crate) guest_address: u64,
    /// Where the guest enters it.
    pub(crate) entry_address: u64,
    /// Its size in bytes, a multiple of [`HUGE_PAGE`].
    pub(crate) size: usize,
}

/// Maps the kernel in `file`.
///
/// # Errors
/// When the file cannot be read or is no `libkrunfw` library.
pub(crate) fn map(file: &File) -> Result<MappedKernel, KernelError> {
    let image = examine(file)?;
    // Rounded up so that the memory after it can be mapped by huge pages.
    let size = usize::try_from(image.size.next_multiple_of(HUGE_PAGE)).map_err(|_| {
        KernelError::Format {
            reason: "it is too large",
        }
    })?;
    let host_address = crate::ffi::map_kernel(file, image.offset, image.size, size)?;
    Ok(MappedKernel {
        host_address,
        guest_address: image.load,
        entry_address: image.entry,
        size,
    })
}

/// Finds the image in `file`.
fn examine(file: &File) -> Result<KernelImage, KernelError> {
    let length = file.metadata()?.len();
    if length > MAX_KERNEL_FILE {
        return Err(KernelError::Format {
            reason: "it is too large",
        });
    }
    let header = Bytes::read(file, 0, ELF_HEADER_LEN as u64, length)?;
    match elf_type(&header)? {
        ET_DYN => locate(file, &header, length),
        _ => Err(KernelError::Format {
            reason: "it is no shared library",
        }),
    }
}

fn elf_type(header: &Bytes) -> Result<u16, KernelError> {
    if header.slice(0, 6)? != [0x7f, b'E', b'L', b'F', 2, 1] {
        return Err(KernelError::Format {
            reason: "it is not a 64-bit ELF file",
        });
    }
    if header.u16(18)? != EM_X86_64 {
        return Err(KernelError::Format {
            reason: "it is for another processor",
        });
    }
    header.u16(16)
}

/// Finds the image in a `libkrunfw` library.
fn locate(file: &File, header: &Bytes, length: u64) -> Result<KernelImage, KernelError> {
    let sections = usize::from(header.u16(60)?).min(MAX_SECTIONS);
    if usize::from(header.u16(58)?) != SECTION_HEADER_LEN {
        return Err(KernelError::Format {
            reason: "its section headers have an odd size",
        });
    }
    let table = Bytes::read(
        file,
        header.u64(40)?,
        (sections * SECTION_HEADER_LEN) as u64,
        length,
    )?;
    let dynsym = (0..sections)
        .map(|index| index * SECTION_HEADER_LEN)
        .find(|at| table.u32(at + 4).is_ok_and(|kind| kind == SHT_DYNSYM))
        .ok_or(KernelError::Format {
            reason: "it has no dynamic symbols",
        })?;
    let strings_at = table.u32(dynsym + 40)? as usize * SECTION_HEADER_LEN;
    let symbols = table.section(file, dynsym, length)?;
    let strings = table.section(file, strings_at, length)?;
    let bundle = symbol(&symbols, &strings, b"KERNEL_BUNDLE")?;
    let function = symbol(&symbols, &strings, b"krunfw_get_kernel")?;

    let code_at = file_offset(file, header, function.0, length)?;
    let code = Bytes::read(file, code_at, function.1.min(MAX_FUNCTION), length)?;
    let [load, entry, size] = stored_constants(&code.0).ok_or(KernelError::Format {
        reason: "its load address could not be found",
    })?;
    let inside = entry >= load && entry - load < size;
    if size == 0 || size > bundle.1 || load > MAX_GUEST_ADDRESS || load % HUGE_PAGE != 0 || !inside
    {
        return Err(KernelError::Format {
            reason: "its load address is not plausible",
        });
    }
    let offset = file_offset(file, header, bundle.0, length)?;
    if offset.checked_add(size).is_none_or(|end| end > length) {
        return Err(KernelError::Format {
            reason: "it is cut short",
        });
    }
    if offset % PAGE != 0 || size % PAGE != 0 {
        return Err(KernelError::Format {
            reason: "its image does not lie on pages",
        });
    }
    Ok(KernelImage {
        offset,
        size,
        load,
        entry,
    })
}

/// Value and size of the symbol called `name`.
fn symbol(symbols: &Bytes, strings: &Bytes, name: &[u8]) -> Result<(u64, u64), KernelError> {
    for at in (0..symbols.0.len()).step_by(SYMBOL_LEN) {
        let start = symbols.u32(at)? as usize;
        let text = strings.0.get(start..).unwrap_or_default();
        if text
            .strip_prefix(name)
            .is_some_and(|rest| rest.first() == Some(&0))
        {
            return Ok((symbols.u64(at + 8)?, symbols.u64(at + 16)?));
        }
    }
    Err(KernelError::Format {
        reason: "it lacks a libkrunfw symbol",
    })
}

/// Translates a virtual address of the library into an offset of its file.
fn file_offset(file: &File, header: &Bytes, address: u64, length: u64) -> Result<u64, KernelError> {
    let count = usize::from(header.u16(56)?).min(MAX_SECTIONS);
    let table = Bytes::read(
        file,
        header.u64(32)?,
        (count * PROGRAM_HEADER_LEN) as u64,
        length,
    )?;
    for at in (0..count).map(|index| index * PROGRAM_HEADER_LEN) {
        let (offset, virtual_start, size) =
            (table.u64(at + 8)?, table.u64(at + 16)?, table.u64(at + 32)?);
        if table.u32(at)? == PT_LOAD && address >= virtual_start && address - virtual_start < size {
            return offset
                .checked_add(address - virtual_start)
                .ok_or(KernelError::Format {
                    reason: "a segment lies outside of it",
                });
        }
    }
    Err(KernelError::Format {
        reason: "a symbol lies in no segment",
    })
}

/// The operands of the three `mov qword [rax], imm32` instructions (`48 c7 00 imm32`), in order:
/// load address, entry point, size.
fn stored_constants(code: &[u8]) -> Option<[u64; 3]> {
    let mut found = Vec::with_capacity(3);
    let mut rest = code;
    while let Some(at) = rest
        .windows(3)
        .position(|bytes| bytes == [0x48, 0xc7, 0x00])
    {
        let operand: [u8; 4] = rest.get(at + 3..at + 7)?.try_into().ok()?;
        found.push(u64::from(u32::from_le_bytes(operand)));
        rest = rest.get(at + 7..)?;
    }
    found.try_into().ok()
}

/// Checked view of bytes of a file.
struct Bytes(Vec<u8>);

impl Bytes {
    fn read(file: &File, at: u64, len: u64, file_len: u64) -> Result<Self, KernelError> {
        if len > MAX_TABLE || at.checked_add(len).is_none_or(|end| end > file_len) {
            return Err(KernelError::Format {
                reason: "a table lies outside of it",
            });
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        file.read_exact_at(&mut bytes, at)?;
        Ok(Self(bytes))
    }

    /// The content of the section whose header begins at `at` of this section table.
    fn section(&self, file: &File, at: usize, file_len: u64) -> Result<Self, KernelError> {
        Self::read(file, self.u64(at + 24)?, self.u64(at + 32)?, file_len)
    }

    fn slice(&self, at: usize, len: usize) -> Result<&[u8], KernelError> {
        self.0
            .get(at..at.saturating_add(len))
            .ok_or(KernelError::Format {
                reason: "a table is cut short",
            })
    }

    fn u16(&self, at: usize) -> Result<u16, KernelError> {
        Ok(self
            .slice(at, 2)?
            .iter()
            .rev()
            .fold(0, |value, byte| (value << 8) | u16::from(*byte)))
    }

    fn u32(&self, at: usize) -> Result<u32, KernelError> {
        Ok(self
            .slice(at, 4)?
            .iter()
            .rev()
            .fold(0, |value, byte| (value << 8) | u32::from(*byte)))
    }

    fn u64(&self, at: usize) -> Result<u64, KernelError> {
        Ok(self
            .slice(at, 8)?
            .iter()
            .rev()
            .fold(0, |value, byte| (value << 8) | u64::from(*byte)))
    }
}

#[cfg(test)]
mod tests;
