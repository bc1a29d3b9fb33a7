//! The machine's users, read once from passwd(5) and group(5), so that they can be asked for under a lock.
//!
//! A user that only a name service knows is unknown here; a call of such a user still runs under its uid and the
//! groups of its connection, but without HOME and a login name.

use kairo_controlplane::config::{Account, Accounts};
use kairo_dataplane::command::Credentials;

/// The users of the files.
pub(crate) struct Passwd(Vec<Account>);

impl Passwd {
    /// Reads them. Unreadable files are empty ones.
    pub(crate) fn read() -> Passwd {
        let text = |path| std::fs::read_to_string(path).unwrap_or_default();
        Passwd::parse(&text("/etc/passwd"), &text("/etc/group"))
    }

    fn parse(passwd: &str, group: &str) -> Passwd {
        let groups_of = |name: &str, gid: u32| {
            let member = |line: &str| {
                let mut fields = line.split(':');
                let gid = fields.nth(2)?.parse().ok()?;
                fields.next()?.split(',').any(|user| user == name).then_some(gid)
            };
            let mut groups: Vec<u32> = group.lines().filter_map(member).collect();
            if !groups.contains(&gid) {
                groups.push(gid);
            }
            groups
        };
        let account = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, _, home, shell] = fields.as_slice() else { return None };
            let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
            Some(Account {
                name: (*name).to_owned(),
                credentials: Credentials { uid, gid, groups: groups_of(name, gid) },
                home: home.as_bytes().to_vec(),
                shell: shell.as_bytes().to_vec(),
            })
        };
        Passwd(passwd.lines().filter_map(account).collect())
    }
}

impl Accounts for Passwd {
    fn by_uid(&self, uid: u32) -> Option<Account> {
        self.0.iter().find(|account| account.credentials.uid == uid).cloned()
    }

    fn by_name(&self, name: &str) -> Option<Account> {
        self.0.iter().find(|account| account.name == name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_its_own_group_and_those_that_name_it() {
        let users = Passwd::parse(
            "root:x:0:0:root:/root:/bin/bash\nana:x:1000:100::/home/ana:/bin/sh\nbroken:x:1\n",
            "root:x:0:\nusers:x:100:\nvideo:x:44:bob,ana\naudio:x:29:anabel\n",
        );
        let ana = users.by_name("ana").unwrap();
        assert_eq!((ana.credentials.uid, ana.credentials.gid), (1000, 100));
        assert_eq!(ana.credentials.groups, [44, 100]);
        assert_eq!(users.by_uid(0).unwrap().home, b"/root");
        assert!(users.by_name("broken").is_none());
    }
}
