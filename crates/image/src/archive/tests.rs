use super::*;
use crate::test_archive::{TestArchive, TestEntry as E, pax_record};

/// Paths, sizes and contents, or the error.
fn read(archive: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut archive = Archive::new(archive);
    let mut entries = Vec::new();
    loop {
        match archive.next().map_err(|error| error.to_string())? {
            None => return Ok(entries),
            Some(entry) => {
                let mut content = Vec::new();
                archive
                    .read_to_end(&mut content)
                    .map_err(|error| error.to_string())?;
                entries.push((String::from_utf8_lossy(&entry.path).into_owned(), content));
            }
        }
    }
}

fn names(archive: &[u8]) -> Result<Vec<String>, String> {
    read(archive).map(|entries| entries.into_iter().map(|(name, _)| name).collect())
}

#[test]
fn reads_what_the_tar_crate_writes() {
    for gnu in [true, false] {
        let mut builder = tar::Builder::new(Vec::new());
        let long = "d/".repeat(120) + "f";
        for (path, body) in [("a", &b"12345"[..]), (&long, b"x"), ("empty", b"")] {
            let mut header = if gnu {
                tar::Header::new_gnu()
            } else {
                tar::Header::new_ustar()
            };
            header.set_size(body.len() as u64);
            if gnu || path.len() < 100 {
                builder.append_data(&mut header, path, body).unwrap();
            } else {
                builder
                    .append_pax_extensions([("path", path.as_bytes())])
                    .unwrap();
                builder.append_data(&mut header, "short", body).unwrap();
            }
        }
        let read = read(&builder.into_inner().unwrap()).unwrap();
        assert_eq!(
            read,
            [
                ("a".into(), b"12345".to_vec()),
                (long, b"x".to_vec()),
                ("empty".into(), vec![])
            ]
        );
    }
}

#[test]
fn long_ustar_names_are_joined_from_prefix_and_name() {
    let mut builder = tar::Builder::new(Vec::new());
    let path = format!("{}/{}", "p".repeat(120), "n".repeat(90));
    let mut header = tar::Header::new_ustar();
    header.set_path(&path).unwrap();
    header.set_size(0);
    header.set_cksum();
    builder.append(&header, &b""[..]).unwrap();
    assert_eq!(names(&builder.into_inner().unwrap()).unwrap(), [path]);
}

#[test]
fn the_pax_size_decides_where_the_next_entry_begins() {
    let hidden = TestArchive::of([E::file("hidden", "")]);
    let outer = E::file("outer", &hidden[..1024])
        .size(0)
        .pax("size", "1024");
    let archive = TestArchive::of([outer, E::file("after", "")]);
    assert_eq!(names(&archive).unwrap(), ["outer", "after"]);
}

#[test]
fn a_size_on_entries_without_content_is_not_content() {
    for kind in *b"123456" {
        let archive = TestArchive::of([E::new(kind, "x").size(512), E::file("after", "")]);
        assert_eq!(
            names(&archive).unwrap(),
            ["x", "after"],
            "{}",
            char::from(kind)
        );
    }
}

#[test]
fn damage_is_told() {
    let good = TestArchive::of([E::file("a", [1; 700]), E::file("b", "x")]);
    for (archive, said) in [
        (good[..100].to_vec(), "middle of an entry"),
        (good[..600].to_vec(), "middle of an entry"),
        (good[..1700].to_vec(), "middle of an entry"),
        (
            [&good[..1536], &[0; 512], &good[1536..]].concat(),
            "single zero block",
        ),
        (
            [&good[..1536], &[b'x'; 512], &good[1536..]].concat(),
            "checksum",
        ),
        (
            TestArchive::of([E::file("a", "").raw(100, b"rw-rw-rw")]),
            "mode",
        ),
        (
            TestArchive::of([E::file("a", "").raw(124, &[0xff; 12])]),
            "size",
        ),
        (
            TestArchive::of([
                E::file("a", "").raw(124, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff")
            ]),
            "size",
        ),
    ] {
        let error = read(&archive).unwrap_err();
        assert!(error.contains(said), "{said}: {error}");
    }
    let mut flipped = good.clone();
    flipped[0] ^= 1;
    assert!(read(&flipped).unwrap_err().contains("checksum"));
}

#[test]
fn ends_at_the_marker_or_at_the_end_of_the_stream() {
    let archive = TestArchive::of([E::file("a", "x")]);
    assert_eq!(names(&archive[..1024]).unwrap(), ["a"]);
    assert_eq!(names(&archive[..1536]).unwrap(), ["a"]);
    assert_eq!(names(&[&archive[..], b"trailing"].concat()).unwrap(), ["a"]);
    assert_eq!(names(b"").unwrap(), Vec::<String>::new());
}

#[test]
fn metadata_is_bounded() {
    let huge = vec![b'n'; (1 << 20) + 1];
    let long_name = TestArchive::of([
        E::file("././@LongLink", &huge).raw(156, b"L"),
        E::file("x", ""),
    ]);
    assert!(read(&long_name).unwrap_err().contains("more than 1 MiB"));
    let claimed = TestArchive::of([E::file("pax", "").raw(156, b"x").raw(124, b"77777777777\0")]);
    assert!(read(&claimed).unwrap_err().contains("more than 1 MiB"));
    let many = (0..20).map(|_| E::file("pax", pax_record(b"comment", b"x")).raw(156, b"g"));
    assert!(
        read(&TestArchive::of(many))
            .unwrap_err()
            .contains("too many metadata headers")
    );
    let dangling = TestArchive::of([E::file("pax", pax_record(b"path", b"x")).raw(156, b"x")]);
    assert!(read(&dangling).unwrap_err().contains("middle of an entry"));
}

#[test]
fn sparse_files_of_every_form_have_their_size_and_segments() {
    let pax = |version: &str| {
        E::file("stored", "")
            .pax("GNU.sparse.name", "real")
            .pax("GNU.sparse.major", &version[..1])
            .pax("GNU.sparse.minor", &version[2..])
    };
    let form_1_0 = pax("1.0")
        .pax("GNU.sparse.realsize", "10000")
        .body(&[&b"2\n0\n3\n9000\n4\n"[..], &[0; 499], b"abcdefg"].concat())
        .size(519);
    let form_0_1 = pax("0.1")
        .pax("GNU.sparse.size", "10000")
        .pax("GNU.sparse.map", "0,3,9000,4")
        .body(b"abcdefg")
        .size(7);
    let form_0_0 = E::file("real", "abcdefg")
        .pax("GNU.sparse.size", "10000")
        .pax("GNU.sparse.offset", "0")
        .pax("GNU.sparse.numbytes", "3")
        .pax("GNU.sparse.offset", "9000")
        .pax("GNU.sparse.numbytes", "4");
    let old = E::file("real", "abcdefg")
        .raw(156, b"S")
        .raw(257, b"ustar  \0")
        .raw(386, b"00000000000 00000000003 00000021450 00000000004 ")
        .raw(483, b"00000023420\0");
    for (form, entry) in [
        ("1.0", form_1_0),
        ("0.1", form_0_1),
        ("0.0", form_0_0),
        ("old", old),
    ] {
        let bytes = TestArchive::of([entry, E::file("after", "")]);
        let mut archive = Archive::new(&bytes[..]);
        let entry = archive.next().unwrap().unwrap();
        assert_eq!(entry.path, b"real", "{form}");
        let segments = Some(vec![
            Segment {
                offset: 0,
                length: 3,
            },
            Segment {
                offset: 9000,
                length: 4,
            },
        ]);
        assert_eq!(
            entry.kind,
            EntryKind::File {
                size: 10_000,
                segments
            },
            "{form}"
        );
        let mut content = Vec::new();
        archive.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"abcdefg", "{form}");
        assert_eq!(archive.next().unwrap().unwrap().path, b"after", "{form}");
    }
}

#[test]
fn old_sparse_maps_go_on_in_further_blocks() {
    let entry = E::file("s", "")
        .raw(156, b"S")
        .raw(257, b"ustar  \0")
        .raw(386, b"00000000000 00000000001 ")
        .raw(482, b"\x01")
        .raw(483, b"00000023420\0");
    let mut more = [
        &b"00000000100 00000000002 00000021450 00000000004 "[..],
        &[0; 464],
    ]
    .concat();
    more.extend([0; 512]);
    more[504] = 1;
    more.extend(b"abcdefg");
    let bytes = TestArchive::of([entry.body(&more).size(7), E::file("after", "")]);
    let mut archive = Archive::new(&bytes[..]);
    let kind = archive.next().unwrap().unwrap().kind;
    let segments = [(0, 1), (64, 2), (9000, 4)].map(|(offset, length)| Segment { offset, length });
    assert_eq!(
        kind,
        EntryKind::File {
            size: 10_000,
            segments: Some(segments.to_vec())
        }
    );
    let mut content = Vec::new();
    archive.read_to_end(&mut content).unwrap();
    assert_eq!(content, b"abcdefg");
    assert_eq!(archive.next().unwrap().unwrap().path, b"after");
}

#[test]
fn types_with_fields_their_header_lacks_are_refused() {
    for (entry, said) in [
        (E::new(b'S', "s"), "sparse file without a GNU header"),
        (
            E::new(b'3', "c").raw(257, &[0; 8]).raw(329, b"1"),
            "device number",
        ),
    ] {
        let error = read(&TestArchive::of([entry])).unwrap_err();
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    let file = |map: &str, size: &str| {
        TestArchive::of([E::file("s", "abcdefg")
            .pax("GNU.sparse.size", size)
            .pax("GNU.sparse.map", map)])
    };
    assert!(read(&file("0,3,9,4", "13")).is_ok());
    for (map, size) in [
        ("0,3,2,4", "100"),
        ("9,4,0,3", "100"),
        ("0,3,9,4", "12"),
        ("0,3,9,3", "100"),
        ("0,3,9", "100"),
        ("0,3,9,x", "100"),
        ("0,3,1152921504606846976,4", "100"),
    ] {
        assert!(read(&file(map, size)).is_err(), "{map} in {size}");
    }
    let endless = E::file("s", "")
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.realsize", "9");
    assert!(read(&TestArchive::of([endless.body(&[b'9'; 1024]).size(1024)])).is_err());
}
