//! Archives for tests, honest and hostile: every header field can be set, nothing is checked.

/// Writes an archive entry by entry.
#[derive(Default)]
pub(crate) struct TestArchive(Vec<u8>);

/// One entry being described.
#[derive(Clone)]
pub(crate) struct TestEntry {
    header: tar::Header,
    body: Vec<u8>,
    records: Vec<u8>,
}

impl TestEntry {
    /// An entry of any type; names of more than 100 bytes go into a pax record.
    pub(crate) fn new(kind: u8, path: impl AsRef<[u8]>) -> Self {
        let path = path.as_ref();
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        let mut entry = Self {
            header,
            body: Vec::new(),
            records: Vec::new(),
        };
        if path.len() > 100 {
            entry = entry.pax("path", path);
        }
        entry.name_field(&path[..path.len().min(100)])
    }

    pub(crate) fn file(path: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Self {
        let mut entry = Self::new(b'0', path);
        entry.body = body.as_ref().to_vec();
        entry.header.set_size(entry.body.len() as u64);
        entry
    }

    pub(crate) fn directory(path: impl AsRef<[u8]>) -> Self {
        Self::new(b'5', path)
    }

    pub(crate) fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::new(b'2', path).target(target.as_ref())
    }

    pub(crate) fn hard_link(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::new(b'1', path).target(target.as_ref())
    }

    pub(crate) fn device(kind: u8, path: &str, major: u32, minor: u32) -> Self {
        let mut entry = Self::new(kind, path);
        entry
            .header
            .set_device_major(major)
            .expect("a ustar header");
        entry
            .header
            .set_device_minor(minor)
            .expect("a ustar header");
        entry
    }

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.header.set_mode(mode);
        self
    }

    pub(crate) fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.header.set_uid(uid);
        self.header.set_gid(gid);
        self
    }

    pub(crate) fn mtime(mut self, mtime: u64) -> Self {
        self.header.set_mtime(mtime);
        self
    }

    /// Says another size than the body has.
    pub(crate) fn size(mut self, size: u64) -> Self {
        self.header.set_size(size);
        self
    }

    pub(crate) fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.records
            .extend(pax_record(key.as_bytes(), value.as_ref()));
        self
    }

    /// Overwrites bytes of the header; the checksum is made to fit.
    pub(crate) fn raw(mut self, at: usize, bytes: &[u8]) -> Self {
        self.header.as_mut_bytes()[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    fn name_field(self, name: &[u8]) -> Self {
        self.raw(0, name)
    }

    fn target(self, target: &[u8]) -> Self {
        let entry = if target.len() > 100 {
            self.pax("linkpath", target)
        } else {
            self
        };
        entry.raw(157, &target[..target.len().min(100)])
    }
}

/// `LENGTH KEY=VALUE\n`.
pub(crate) fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key, b"=", value, b"\n"].concat();
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    [length.to_string().as_bytes(), &rest].concat()
}

impl TestArchive {
    pub(crate) fn of(entries: impl IntoIterator<Item = TestEntry>) -> Vec<u8> {
        let mut archive = Self::default();
        for entry in entries {
            archive.push(entry);
        }
        archive.finish()
    }

    pub(crate) fn push(&mut self, mut entry: TestEntry) {
        if !entry.records.is_empty() {
            let records = std::mem::take(&mut entry.records);
            self.push(TestEntry::file("pax", &records).raw(156, b"x"));
        }
        entry.header.set_cksum();
        self.0.extend_from_slice(entry.header.as_bytes());
        self.0.extend_from_slice(&entry.body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}
