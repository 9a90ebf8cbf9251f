//! The host's own ideas about names, read again when its files change: a host moves between networks while a VM runs.

use std::io::Read;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::hosts_file::HostsFile;
use super::resolv_conf::ResolvConf;

/// Settings of the moment.
#[derive(Debug, Clone)]
pub(crate) struct HostNames {
    pub(crate) settings: Rc<ResolvConf>,
    pub(crate) hosts: Rc<HostsFile>,
}

impl HostNames {
    /// From the text of both files.
    pub(crate) fn parse(resolv_conf: &str, hosts: &str) -> Self {
        Self {
            settings: Rc::new(ResolvConf::parse(resolv_conf, interface_index)),
            hosts: Rc::new(HostsFile::parse(hosts)),
        }
    }
}

/// Whether the files say something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// They do not.
    None,
    /// They do: what was learnt before counts no longer.
    New,
}

/// Where the settings come from.
#[derive(Debug)]
pub(crate) struct HostFiles {
    pub(crate) names: HostNames,
    watch: Option<Watch>,
}

#[derive(Debug)]
struct Watch {
    resolv_conf: PathBuf,
    hosts: PathBuf,
    seen: [Option<Stamp>; 2],
    next_look: Instant,
}

/// What a file is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    modified: SystemTime,
    len: u64,
}

impl HostFiles {
    /// Settings that do not change.
    pub(crate) fn fixed(names: HostNames) -> Self {
        Self { names, watch: None }
    }

    /// Settings of files that may change, come and go.
    pub(crate) fn watched(resolv_conf: &Path, hosts: &Path) -> Self {
        let (resolv_conf, hosts) = (resolv_conf.to_owned(), hosts.to_owned());
        Self {
            names: HostNames::parse(&text(&resolv_conf), &text(&hosts)),
            watch: Some(Watch {
                seen: [stamp(&resolv_conf), stamp(&hosts)],
                resolv_conf,
                hosts,
                next_look: Instant::now() + LOOK_INTERVAL,
            }),
        }
    }

    /// Looks whether the files have changed, if it is time to.
    pub(crate) fn refresh(&mut self, now: Instant) -> Change {
        let Some(watch) = &mut self.watch else {
            return Change::None;
        };
        if now < watch.next_look {
            return Change::None;
        }
        watch.next_look = now + LOOK_INTERVAL;
        let seen = [stamp(&watch.resolv_conf), stamp(&watch.hosts)];
        if seen == watch.seen {
            return Change::None;
        }
        watch.seen = seen;
        self.names = HostNames::parse(&text(&watch.resolv_conf), &text(&watch.hosts));
        Change::New
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs_err::metadata(path).ok()?;
    Some(Stamp {
        inode: metadata.ino(),
        modified: metadata.modified().ok()?,
        len: metadata.len(),
    })
}

/// The start of a file; empty if it cannot be read.
fn text(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = fs_err::File::open(path) {
        let _what_was_read_counts = file.take(MAX_FILE).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Index of a network interface of the host.
fn interface_index(name: &str) -> Option<u32> {
    let proper = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(proper) {
        return None;
    }
    text(&Path::new("/sys/class/net").join(name).join("ifindex"))
        .trim()
        .parse()
        .ok()
}

/// How often the files are looked at, at most: only when a question comes.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes read of a file: block lists of a hundred thousand names are a tenth of it.
const MAX_FILE: u64 = 32 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn reads_files_again_when_they_change_but_not_all_the_time() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name| directory.path().join(name);
        let (conf, hosts) = (file("resolv.conf"), file("hosts"));
        fs_err::write(&conf, "nameserver 192.0.2.1\n").unwrap();
        let mut files = HostFiles::watched(&conf, &hosts);
        fs_err::write(&conf, "nameserver 192.0.2.10\nsearch lan\n").unwrap();
        let now = Instant::now();
        assert_eq!(files.refresh(now), Change::None, "not yet time to look");
        assert_eq!(files.refresh(now + LOOK_INTERVAL), Change::New);
        assert_eq!(files.names.settings.servers[0].to_string(), "192.0.2.10:53");
        assert_eq!(files.refresh(now + 2 * LOOK_INTERVAL), Change::None);
        fs_err::remove_file(&conf).unwrap();
        assert_eq!(files.refresh(now + 3 * LOOK_INTERVAL), Change::New);
        assert_eq!(files.names.settings.servers[0].to_string(), "127.0.0.1:53");
    }

    #[test]
    fn interfaces_are_known_by_name_only() {
        assert_eq!(interface_index("lo"), Some(1));
        for name in ["", "..", "../lo", "lo/", "no-such"] {
            assert_eq!(interface_index(name), None);
        }
    }
}
