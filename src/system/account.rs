//! A user of this system, for `--run-as`: what `/etc/passwd` and `/etc/group` say of it. The texts are the caller's.
//!
//! Users that only a directory service knows are not found: asking it needs the C library's plugins, which a small static
//! binary does not have.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Who runs what a component says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its id.
    pub uid: u32,
    /// Its first group.
    pub gid: u32,
    /// All its groups, the first one included.
    pub groups: Vec<u32>,
    /// Its home directory.
    pub home: PathBuf,
}

impl Account {
    /// Finds a user by its name, or by its number if that stands in `passwd`.
    ///
    /// # Errors
    /// Why there is no such user.
    pub fn find(wanted: &str, passwd: &str, group: &str) -> Result<Account, String> {
        // name:password:uid:gid:comment:home:shell
        let mut users = passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>());
        let user = users
            .find(|user| user.len() >= 6 && [user[0], user[2]].contains(&wanted))
            .ok_or_else(|| format!("there is no user '{wanted}' in /etc/passwd"))?;
        let number = |text: &str| {
            text.parse::<u32>().map_err(|_| {
                format!("the line of '{wanted}' in /etc/passwd has '{text}' for a number")
            })
        };
        let (name, uid, gid) = (user[0], number(user[2])?, number(user[3])?);
        let mut groups = vec![gid];
        // name:password:gid:members
        for line in group.lines() {
            let group: Vec<&str> = line.split(':').collect();
            let [_, _, id, members] = group[..] else {
                continue;
            };
            match id.parse() {
                Ok(id)
                    if members.split(',').any(|member| member == name) && !groups.contains(&id) =>
                {
                    groups.push(id);
                }
                _ => {}
            }
        }
        Ok(Account {
            name: name.to_owned(),
            uid,
            gid,
            groups,
            home: PathBuf::from(user[5]),
        })
    }
}

/// Whose a path is, by the user's name or number; if it cannot be looked at, whose is the nearest directory above that can.
pub fn owner(path: &Path) -> Option<String> {
    let found = path.ancestors().find_map(|at| fs::metadata(at).ok())?;
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    Some(user_name(found.uid(), &passwd))
}

fn user_name(uid: u32, passwd: &str) -> String {
    let number = uid.to_string();
    let mut users = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>());
    let user = users.find(|user| user.len() > 2 && user[2] == number);
    user.map_or(number.clone(), |user| user[0].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_their_groups() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\n# comment\nhalf:x:1\napp:x:1000:100:App,,,:/home/app:/bin/sh\n\
                      odd:x:one:1::/:/bin/sh\nlast:x:1001:1001::/srv";
        let group = "root:x:0:\nusers:x:100:app\nvideo:x:44:x,app\nbad:x:no:app\nother:x:45:apple\ndocker:x:46:app,x\n";
        let app = Account {
            name: "app".into(),
            uid: 1000,
            gid: 100,
            groups: vec![100, 44, 46],
            home: "/home/app".into(),
        };
        for wanted in ["app", "1000"] {
            assert_eq!(Account::find(wanted, passwd, group).unwrap(), app);
        }
        // A line without a shell does as well.
        assert!(Account::find("last", "last:x:1:2::/srv", "").is_ok());
        for wanted in ["nobody", "", "half", "odd", "x", "App"] {
            let why = Account::find(wanted, passwd, group).unwrap_err();
            assert!(why.contains("/etc/passwd"), "{wanted}: {why}");
        }
    }

    #[test]
    fn the_owner_of_a_path() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(user_name(1000, passwd), "ann");
        assert_eq!(user_name(7, passwd), "7");
        assert_eq!(owner(Path::new("/none/none")), owner(Path::new("/")));
    }
}
