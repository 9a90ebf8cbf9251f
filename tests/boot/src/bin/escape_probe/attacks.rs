//! What a hostile guest asks of the file server, and the count of what it got.

use std::collections::HashSet;
use std::fmt;

use anyhow::Result;

use crate::Targets;
use crate::fuse::{Answer, Connection, Message, Operation, u64_at};
use crate::requests::{
    CHARACTER_DEVICE, FIFO, O_CREAT, O_RDWR, OWN_FILE, REGULAR, chmod, create, mkdir, mknod,
    name_kinds, named_requests, read, write,
};

const ROOT: u64 = 1;
const O_TRUNC: u32 = 0o1000;

/// Name of the probe's own directory in each writable share.
const OWN_DIRECTORY: &[u8] = b"escape-probe-dir";
const OWN_TEXT: &[u8] = b"written by the escape probe";

/// Everything counted.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    operations: HashSet<String>,
    names: HashSet<Vec<u8>>,
    requests: u64,
    unanswered: u64,
    host_bytes: usize,
    /// One line for each hostile request that was answered with success.
    pub(crate) successes: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            operations, names, ..
        } = self;
        write!(
            f,
            "escape: operations={} names={} requests={} unanswered={} answered_ok={} host_bytes={}",
            operations.len(),
            names.len(),
            self.requests,
            self.unanswered,
            self.successes.len(),
            self.host_bytes,
        )
    }
}

/// A share whose root the probe looked up.
#[derive(Clone, Copy, Debug)]
struct Share {
    root: u64,
    /// The probe's own file, open, and directory; only in writable shares.
    own: Option<Own>,
}

#[derive(Clone, Copy, Debug)]
struct Own {
    file: u64,
    handle: u64,
    directory: u64,
}

pub(crate) struct Attack {
    connection: Connection,
    shares: Vec<Share>,
    canaries: Vec<Vec<u8>>,
    tally: Tally,
    highest_node: u64,
    fresh: u32,
}

impl Attack {
    /// Starts the session and proves that good requests work.
    pub(crate) fn begin(mut connection: Connection, targets: &Targets) -> Result<Self> {
        let init = Message::new(Operation::Init, 0).u32(7).u32(31).u32(1 << 17);
        connection.demand(&init.u32(!(1 << 30)))?;
        let mut attack = Self {
            connection,
            shares: Vec::new(),
            canaries: targets.canaries.clone(),
            tally: Tally::default(),
            highest_node: ROOT,
            fresh: 0,
        };
        let shares = attack.look_up(ROOT, b"shares")?;
        for index in &targets.read_only {
            let root = attack.look_up(shares, index.to_string().as_bytes())?;
            attack.shares.push(Share { root, own: None });
        }
        for index in &targets.read_write {
            let root = attack.look_up(shares, index.to_string().as_bytes())?;
            let own = Some(attack.make_own(root)?);
            attack.shares.push(Share { root, own });
        }
        Ok(attack)
    }

    fn look_up(&mut self, parent: u64, name: &[u8]) -> Result<u64> {
        let lookup = Message::new(Operation::Lookup, parent).name(name);
        let node = u64_at(&self.connection.demand(&lookup)?, 0);
        self.highest_node = self.highest_node.max(node);
        Ok(node)
    }

    /// Makes, writes and reads a file: the way the device is driven works.
    fn make_own(&mut self, root: u64) -> Result<Own> {
        let reply = self.connection.demand(&create(root).name(OWN_FILE))?;
        let (file, handle) = (u64_at(&reply, 0), u64_at(&reply, 128));
        self.connection.demand(&write(file, handle, OWN_TEXT))?;
        let text = self.connection.demand(&read(file, handle, 64))?;
        anyhow::ensure!(text == OWN_TEXT, "own text came back as {text:?}");
        let made = self.connection.demand(&mkdir(root).name(OWN_DIRECTORY))?;
        let directory = u64_at(&made, 0);
        self.highest_node = self.highest_node.max(file).max(directory);
        Ok(Own {
            file,
            handle,
            directory,
        })
    }

    /// All attacks, then removes what the probe made.
    pub(crate) fn run(mut self) -> Result<Tally> {
        for share in self.shares.clone() {
            let mut nodes = vec![ROOT, share.root];
            if let Some(own) = share.own {
                nodes.extend([own.directory, own.file]);
            } else {
                self.change_read_only(share.root)?;
            }
            for node in nodes {
                self.hostile_names(node, share)?;
            }
            self.wrong_handles(share)?;
        }
        self.unknown_nodes()?;
        for share in self.shares.clone() {
            let Some(own) = share.own else { continue };
            let release = Message::new(Operation::Release, own.file).u64(own.handle);
            self.connection.demand(&release.u64(0).u64(0))?;
            let unlink = Message::new(Operation::Unlink, share.root).name(OWN_FILE);
            self.connection.demand(&unlink)?;
            let rmdir = Message::new(Operation::Rmdir, share.root).name(OWN_DIRECTORY);
            self.connection.demand(&rmdir)?;
        }
        self.tally.requests = self.connection.requests();
        Ok(self.tally)
    }

    /// Sends what must not succeed.
    fn attempt(&mut self, what: &str, message: &Message) -> Result<()> {
        let operation = format!("{:?} {what}", message.operation);
        self.tally.operations.insert(operation.clone());
        match self.connection.send(message)? {
            Answer::Refused(_) => {}
            Answer::Nothing => self.tally.unanswered += 1,
            Answer::Ok(payload) => {
                let bytes = self.follow(message.operation, &payload)?;
                self.tally.host_bytes += bytes.len();
                let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
                self.tally.successes.push(format!(
                    "{operation} node={} request={message:?} content={shown:?}",
                    message.node
                ));
            }
        }
        Ok(())
    }

    /// What a success gives away: the content of the node it led to.
    fn follow(&mut self, operation: Operation, payload: &[u8]) -> Result<Vec<u8>> {
        if matches!(operation, Operation::Read | Operation::Readlink) {
            return Ok(payload.to_vec());
        }
        if !matches!(operation, Operation::Lookup | Operation::Create) {
            return Ok(Vec::new());
        }
        let node = u64_at(payload, 0);
        let open = Message::new(Operation::Open, node).u32(0).u32(0);
        let Answer::Ok(opened) = self.connection.send(&open)? else {
            return Ok(Vec::new());
        };
        match self
            .connection
            .send(&read(node, u64_at(&opened, 0), 1024))?
        {
            Answer::Ok(content) => Ok(content),
            _ => Ok(Vec::new()),
        }
    }

    /// Every operation that takes a name, with every hostile name in every encoding.
    fn hostile_names(&mut self, node: u64, share: Share) -> Result<()> {
        let file = share.own.map_or(share.root, |own| own.file);
        for kind in 0..name_kinds(&self.canaries).len() {
            for request in named_requests(node, file, share.root) {
                // Fresh names would really be made outside by a server that does not check.
                self.fresh += 1;
                let names = name_kinds(&self.canaries);
                let name = names[kind].replace_fresh(self.fresh);
                if request.removes && !names[kind].may_be_removed {
                    continue;
                }
                self.tally.names.insert(names[kind].text.clone());
                let prefix = || request.prefix.clone();
                let encodings = [
                    ("", prefix().name(&name)),
                    ("without NUL", prefix().bytes(&name)),
                    ("with more after NUL", prefix().name(&name).name(b"x/../..")),
                ];
                for (how, message) in encodings {
                    let message = message.bytes(request.suffix);
                    self.attempt(&format!("{} {how}", request.what), &message)?;
                }
            }
        }
        Ok(())
    }

    /// Good names in a read-only share: no change may happen.
    fn change_read_only(&mut self, root: u64) -> Result<()> {
        let name = b"escape-probe-read-only";
        let requests = [
            create(root).name(name),
            mkdir(root).name(name),
            mknod(root, REGULAR).name(name),
            mknod(root, FIFO).name(name),
            mknod(root, CHARACTER_DEVICE).name(name),
            Message::new(Operation::Symlink, root).name(name).name(b"x"),
            Message::new(Operation::Link, root).u64(root).name(name),
            Message::new(Operation::Setxattr, root)
                .u32(1)
                .u32(0)
                .name(b"user.x")
                .bytes(b"y"),
            chmod(root),
        ];
        for request in requests {
            self.attempt("read-only", &request)?;
        }
        let (entries, _) = self.list(root)?;
        for entry in entries
            .iter()
            .filter(|entry| *entry != b"." && *entry != b"..")
        {
            let node = self.look_up(root, entry)?;
            for flags in [1, O_RDWR, O_TRUNC, 1 | O_TRUNC, O_RDWR | O_CREAT] {
                let open = Message::new(Operation::Open, node).u32(flags).u32(0);
                self.attempt("read-only for writing", &open)?;
            }
            self.attempt("read-only", &chmod(node))?;
            let remove = [Operation::Unlink, Operation::Rmdir];
            for operation in remove {
                let remove = Message::new(operation, root).name(entry);
                self.attempt("read-only", &remove)?;
            }
            let rename = Message::new(Operation::Rename, root).u64(root);
            self.attempt("read-only", &rename.name(entry).name(name))?;
        }
        Ok(())
    }

    /// Names in a directory: the first pages.
    fn list(&mut self, node: u64) -> Result<(Vec<Vec<u8>>, u64)> {
        let opendir = Message::new(Operation::Opendir, node).u32(0).u32(0);
        let handle = u64_at(&self.connection.demand(&opendir)?, 0);
        let readdir = Message::new(Operation::Readdir, node).u64(handle);
        let listing = readdir.u64(0).u32(2048).u32(0).u64(0).u32(0).u32(0);
        let payload = self.connection.demand(&listing)?;
        let mut names = Vec::new();
        let mut at = 0;
        while at + 24 <= payload.len() {
            let length = (u64_at(&payload, at + 16) as u32) as usize;
            let Some(name) = payload.get(at + 24..at + 24 + length) else {
                break;
            };
            names.push(name.to_vec());
            at += (24 + length).next_multiple_of(8);
        }
        Ok((names, handle))
    }

    /// Handles never given out.
    fn wrong_handles(&mut self, share: Share) -> Result<()> {
        let node = share.own.map_or(share.root, |own| own.file);
        for handle in [0, 1 << 20, u64::MAX] {
            self.attempt("wrong handle", &read(node, handle, 512))?;
            self.attempt("wrong handle", &write(node, handle, b"x"))?;
            let readdir = Message::new(Operation::Readdir, node).u64(handle);
            let listing = readdir.u64(0).u32(512).u32(0).u64(0).u32(0).u32(0);
            self.attempt("wrong handle", &listing)?;
            let allocate = Message::new(Operation::Fallocate, node).u64(handle);
            let allocate = allocate.u64(0).u64(4096).u32(0).u32(0);
            self.attempt("wrong handle", &allocate)?;
            let copy = Message::new(Operation::CopyFileRange, node).u64(handle);
            let copy = copy.u64(0).u64(node).u64(handle).u64(0).u64(9).u64(0);
            self.attempt("wrong handle", &copy)?;
        }
        Ok(())
    }

    /// Node ids that were never looked up.
    fn unknown_nodes(&mut self) -> Result<()> {
        let next = self.highest_node + 1;
        let mut nodes: Vec<u64> = (next..next + 32).collect();
        nodes.extend([0, 1 << 20, 1 << 32, 1 << 63, u64::MAX]);
        for node in nodes {
            let plain = |operation| Message::new(operation, node);
            let requests = [
                plain(Operation::Getattr).u32(0).u32(0).u64(0),
                plain(Operation::Lookup).name(b"x"),
                plain(Operation::Open).u32(0).u32(0),
                plain(Operation::Opendir).u32(0).u32(0),
                plain(Operation::Readlink),
                plain(Operation::Statfs),
                plain(Operation::Access).u32(4).u32(0),
                plain(Operation::Getxattr).u32(0).u32(0).name(b"user.x"),
                plain(Operation::Listxattr).u32(512).u32(0),
                plain(Operation::Removexattr).name(b"user.x"),
                plain(Operation::Readdirplus)
                    .u64(1)
                    .u64(0)
                    .u32(512)
                    .u32(0)
                    .u64(0)
                    .u64(0),
                chmod(node),
                create(node).name(b"x"),
                mkdir(node).name(b"x"),
                plain(Operation::Unlink).name(b"x"),
                plain(Operation::Rename).u64(ROOT).name(b"x").name(b"y"),
                Message::new(Operation::Rename, ROOT)
                    .u64(node)
                    .name(b"x")
                    .name(b"y"),
                Message::new(Operation::Link, ROOT).u64(node).name(b"x"),
            ];
            for request in requests {
                self.attempt("unknown node", &request)?;
            }
        }
        Ok(())
    }
}
