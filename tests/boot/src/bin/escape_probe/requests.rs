//! The names a hostile guest would use and the requests it would put them in.

use crate::fuse::{Message, Operation};

pub(crate) const O_RDWR: u32 = 2;
pub(crate) const O_CREAT: u32 = 0o100;
pub(crate) const REGULAR: u32 = 0o100_644;
pub(crate) const FIFO: u32 = 0o010_644;
pub(crate) const CHARACTER_DEVICE: u32 = 0o020_644;

/// Name of the probe's own file in each writable share.
pub(crate) const OWN_FILE: &[u8] = b"escape-probe-file";

/// A hostile name; `FRESH` in it becomes a number used once.
pub(crate) struct HostileName {
    pub(crate) text: Vec<u8>,
    /// A server without checks would remove nothing of value.
    pub(crate) may_be_removed: bool,
}

const FRESH: &[u8] = b"FRESH";

impl HostileName {
    pub(crate) fn replace_fresh(&self, number: u32) -> Vec<u8> {
        match self.text.strip_suffix(FRESH) {
            Some(start) => [start, number.to_string().as_bytes()].concat(),
            None => self.text.clone(),
        }
    }
}

pub(crate) fn name_kinds(canaries: &[Vec<u8>]) -> Vec<HostileName> {
    let removable: [&[u8]; 14] = [
        b"",
        b".",
        b"..",
        b"/",
        b"./",
        b"../",
        b"a/../../b",
        b"escape-probe-dir/..",
        b"escape-probe-dir/../..",
        b"./escape-probe-file",
        b"escape-probe-file/",
        b"../agent-vm-escape-FRESH",
        b"escape-probe-dir/../../agent-vm-escape-FRESH",
        b"/tmp/agent-vm-escape-FRESH",
    ];
    let precious: [&[u8]; 9] = [
        b"/etc",
        b"/etc/passwd",
        b"/etc/hostname",
        b"//etc//hostname",
        b"../../etc/passwd",
        b"/proc/self/environ",
        b"/proc/self/fd",
        b"/proc/self/root/etc/passwd",
        b"../../../../../../../../../../../../../../etc/passwd",
    ];
    let mut names: Vec<HostileName> = removable
        .iter()
        .map(|text| (text, true))
        .chain(precious.iter().map(|text| (text, false)))
        .map(|(text, may_be_removed)| HostileName {
            text: text.to_vec(),
            may_be_removed,
        })
        .collect();
    let long = [256, 1000, 3000].map(|length| vec![b'a'; length]);
    let deep = [b"../".repeat(200), b"etc/passwd".to_vec()].concat();
    let canaries = canaries.iter().flat_map(|canary| {
        let relative = [b"..".as_slice(), b"/..".repeat(15).as_slice(), canary].concat();
        [canary.clone(), relative]
    });
    for text in long.into_iter().chain([deep]).chain(canaries) {
        names.push(HostileName {
            text,
            may_be_removed: false,
        });
    }
    names
}

/// A request around a hostile name.
pub(crate) struct NamedRequest {
    pub(crate) what: &'static str,
    /// Up to the hostile name.
    pub(crate) prefix: Message,
    /// After it.
    pub(crate) suffix: &'static [u8],
    /// Success would remove what the name refers to.
    pub(crate) removes: bool,
}

/// Every operation that takes a name, in `node`; a good name, where there is another, is in `root`.
pub(crate) fn named_requests(node: u64, file: u64, root: u64) -> Vec<NamedRequest> {
    let plain = |operation| Message::new(operation, node);
    let moves = |what, prefix, suffix| NamedRequest {
        what,
        prefix,
        suffix,
        removes: true,
    };
    let makes = |what, prefix, suffix| NamedRequest {
        what,
        prefix,
        suffix,
        removes: false,
    };
    const NEW: &[u8] = b"escape-probe-moved\0";
    let from = |flags| plain(Operation::Rename2).u64(root).u32(flags).u32(0);
    let to = |flags| {
        let message = Message::new(Operation::Rename2, root).u64(node);
        message.u32(flags).u32(0).name(OWN_FILE)
    };
    let to_plain = Message::new(Operation::Rename, root).u64(node);
    vec![
        makes("", plain(Operation::Lookup), b""),
        makes("", plain(Operation::Symlink), b"/etc/passwd\0"),
        makes("regular", mknod(node, REGULAR), b""),
        makes("fifo", mknod(node, FIFO), b""),
        makes("device", mknod(node, CHARACTER_DEVICE), b""),
        makes("", mkdir(node), b""),
        makes("", plain(Operation::Link).u64(file), b""),
        makes("", create(node), b""),
        makes("", tmpfile(node), b""),
        makes("to, no replace", to(1), b""),
        moves("", plain(Operation::Unlink), b""),
        moves("", plain(Operation::Rmdir), b""),
        moves("from", plain(Operation::Rename).u64(root), NEW),
        moves("from", from(0), NEW),
        moves("from, exchange", from(2), NEW),
        moves("to", to_plain.name(OWN_FILE), b""),
        moves("to", to(0), b""),
        moves("to, exchange", to(2), b""),
    ]
}

pub(crate) fn create(node: u64) -> Message {
    let message = Message::new(Operation::Create, node);
    message.u32(O_RDWR | O_CREAT).u32(REGULAR).u32(0).u32(0)
}

fn tmpfile(node: u64) -> Message {
    let message = Message::new(Operation::Tmpfile, node);
    message.u32(O_RDWR).u32(REGULAR).u32(0).u32(0)
}

pub(crate) fn mkdir(node: u64) -> Message {
    Message::new(Operation::Mkdir, node).u32(0o755).u32(0)
}

pub(crate) fn mknod(node: u64, mode: u32) -> Message {
    let message = Message::new(Operation::Mknod, node);
    message.u32(mode).u32(0x103).u32(0).u32(0)
}

pub(crate) fn read(node: u64, handle: u64, size: u32) -> Message {
    let message = Message::new(Operation::Read, node).u64(handle).u64(0);
    message.u32(size).u32(0).u64(0).u32(0).u32(0)
}

pub(crate) fn write(node: u64, handle: u64, text: &[u8]) -> Message {
    let message = Message::new(Operation::Write, node).u64(handle).u64(0);
    let message = message.u32(text.len() as u32).u32(0).u64(0).u32(0).u32(0);
    message.bytes(text)
}

/// SETATTR of the mode only.
pub(crate) fn chmod(node: u64) -> Message {
    const MODE: u32 = 1;
    let message = Message::new(Operation::Setattr, node).u32(MODE).u32(0);
    message.bytes(&[0; 60]).u32(0o777).bytes(&[0; 16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_hostile() {
        for name in name_kinds(&[b"/home/canary".to_vec()]) {
            let text = name.replace_fresh(7);
            let plain = !text.is_empty()
                && text.len() <= 255
                && text != b"."
                && text != b".."
                && !text.contains(&b'/');
            assert!(!plain, "{:?}", String::from_utf8_lossy(&text));
            assert!(text.len() < 3500, "fits a request");
        }
    }

    #[test]
    fn requests_that_could_harm_the_host_avoid_precious_names() {
        for name in name_kinds(&[b"/home/canary".to_vec()]) {
            let text = String::from_utf8_lossy(&name.text).into_owned();
            let precious = ["etc", "proc", "home"]
                .iter()
                .any(|part| text.contains(part));
            assert!(!precious || !name.may_be_removed, "{text}");
        }
    }
}
