//! `/etc/passwd` and `/etc/group` of the image, and the user specification of image configurations (OCI image spec,
//! `config.User`): `user`, `uid`, `user:group`, `uid:gid`, `uid:group`, `user:gid`; empty is root.

use agent_vm_protocol::User;
use thiserror::Error;

/// Who a program runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory, when `/etc/passwd` knows one.
    pub home: Option<Vec<u8>>,
}

/// The specification names nobody.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UserError {
    /// Not in `/etc/passwd` and not a number.
    #[error("no user {0:?} in /etc/passwd of the image")]
    NoUser(String),
    /// Not in `/etc/group` and not a number.
    #[error("no group {0:?} in /etc/group of the image")]
    NoGroup(String),
}

struct Account<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

/// Finds `user` in the contents of the two files.
///
/// # Errors
/// A name is in neither.
pub fn resolve(user: &User, passwd: &[u8], group: &[u8]) -> Result<Identity, UserError> {
    match user {
        User::Ids { uid, gid, groups } => {
            let home = accounts(passwd)
                .find(|account| account.uid == *uid)
                .map(|account| account.home.to_vec());
            Ok(Identity {
                uid: *uid,
                gid: *gid,
                groups: groups.clone(),
                home,
            })
        }
        User::Spec(spec) => resolve_spec(spec, passwd, group),
    }
}

fn resolve_spec(spec: &str, passwd: &[u8], group: &[u8]) -> Result<Identity, UserError> {
    let (user, wanted_group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let named = accounts(passwd).find(|account| account.name == user.as_bytes());
    let account = named.or_else(|| {
        let uid = user.parse::<u32>().ok()?;
        accounts(passwd).find(|account| account.uid == uid)
    });
    let uid = match &account {
        Some(account) => account.uid,
        None => user
            .parse()
            .map_err(|_| UserError::NoUser(user.to_owned()))?,
    };
    let explicit = wanted_group
        .filter(|name| !name.is_empty())
        .map(|name| find_group(name, group))
        .transpose()?;
    let (gid, groups) = match (explicit, &account) {
        (Some(gid), _) => (gid, vec![gid]),
        (None, Some(account)) => (account.gid, member_groups(account, group)),
        (None, None) => (0, vec![0]),
    };
    Ok(Identity {
        uid,
        gid,
        groups,
        home: account.map(|account| account.home.to_vec()),
    })
}

fn accounts(passwd: &[u8]) -> impl Iterator<Item = Account<'_>> {
    passwd.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next()?;
        let uid = number(fields.nth(1)?)?;
        let gid = number(fields.next()?)?;
        let home = fields.nth(1)?;
        Some(Account {
            name,
            uid,
            gid,
            home,
        })
    })
}

fn groups(group: &[u8]) -> impl Iterator<Item = (&[u8], u32, &[u8])> {
    group.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next()?;
        let gid = number(fields.nth(1)?)?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn member_groups(account: &Account<'_>, group: &[u8]) -> Vec<u32> {
    let member = |members: &[u8]| {
        members
            .split(|byte| *byte == b',')
            .any(|name| name == account.name)
    };
    let others = groups(group)
        .filter(|(_, _, members)| member(members))
        .map(|(_, gid, _)| gid);
    let mut all: Vec<u32> = std::iter::once(account.gid).chain(others).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn find_group(name: &str, group: &[u8]) -> Result<u32, UserError> {
    let named = groups(group)
        .find(|(entry, _, _)| *entry == name.as_bytes())
        .map(|(_, gid, _)| gid);
    named
        .or_else(|| name.parse().ok())
        .ok_or_else(|| UserError::NoGroup(name.to_owned()))
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/bash\nbroken line\n\nnode:x:1000:1000::/home/node:/bin/sh\n";
    const GROUP: &[u8] = b"root:x:0:\nnode:x:1000:\ndocker:x:999:node,other\n";

    fn spec(text: &str) -> Result<Identity, UserError> {
        resolve(&User::Spec(text.to_owned()), PASSWD, GROUP)
    }

    #[test]
    fn empty_is_root_with_its_home() {
        let root = spec("").unwrap();
        assert_eq!(
            (root.uid, root.gid, root.home.as_deref()),
            (0, 0, Some(&b"/root"[..]))
        );
    }

    #[test]
    fn a_name_brings_its_groups() {
        let node = spec("node").unwrap();
        assert_eq!(
            (node.uid, node.gid, node.groups),
            (1000, 1000, vec![999, 1000])
        );
        assert_eq!(spec("1000").unwrap().groups, vec![999, 1000]);
    }

    #[test]
    fn an_explicit_group_replaces_the_others() {
        let node = spec("node:docker").unwrap();
        assert_eq!((node.gid, node.groups), (999, vec![999]));
        assert_eq!(spec("5:77").unwrap().gid, 77);
    }

    #[test]
    fn an_unknown_number_is_accepted_but_an_unknown_name_is_not() {
        let nobody = spec("4242").unwrap();
        assert_eq!((nobody.uid, nobody.gid, nobody.home), (4242, 0, None));
        assert_eq!(spec("ghost"), Err(UserError::NoUser("ghost".into())));
        assert_eq!(
            spec("node:ghosts"),
            Err(UserError::NoGroup("ghosts".into()))
        );
    }

    #[test]
    fn ids_are_taken_as_they_are() {
        let user = User::Ids {
            uid: 1000,
            gid: 5,
            groups: vec![6],
        };
        let identity = resolve(&user, PASSWD, GROUP).unwrap();
        assert_eq!(
            (identity.gid, identity.groups, identity.home.is_some()),
            (5, vec![6], true)
        );
    }
}
