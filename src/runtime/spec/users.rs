//! Who a container's process is: numbers and names, looked up in the image's own passwd and group.

use super::oci::User;
use crate::runtime::Security;

/// A user or group the image does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unable to find {what} {name}: no matching entries in {file} file")]
pub(crate) struct UserError {
    what: &'static str,
    name: String,
    file: &'static str,
}

/// An image's `/etc/passwd` and `/etc/group`; empty where it has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct UserDb {
    users: Vec<Entry>,
    groups: Vec<Group>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    name: String,
    uid: u32,
    gid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

impl UserDb {
    /// Reads both files; lines that are not entries are passed over.
    pub(crate) fn parse(passwd: &str, group: &str) -> Self {
        Self {
            users: passwd.lines().filter_map(user_line).collect(),
            groups: group.lines().filter_map(group_line).collect(),
        }
    }

    /// The user that `security` asks for, else the image's `user` (`name`, `uid`, `name:group` …),
    /// else root.
    pub(crate) fn resolve(&self, security: &Security, image_user: &str) -> Result<User, UserError> {
        let (user_text, group_text) = image_user.split_once(':').unwrap_or((image_user, ""));
        let (uid, user_gid, name) = match security.user {
            Some(uid) => self.by_uid(uid),
            None if user_text.is_empty() => self.by_uid(0),
            None => self.by_text(user_text)?,
        };
        // The image's group goes with the image's user.
        let image_group = if security.user.is_none() {
            group_text
        } else {
            ""
        };
        let gid = match security.group {
            Some(gid) => gid,
            None if image_group.is_empty() => user_gid,
            None => self.group_by_text(image_group)?,
        };
        let mut additional = vec![gid];
        let memberships = self.groups_of(name.as_deref());
        for more in memberships
            .into_iter()
            .chain(security.supplemental_groups.iter().copied())
        {
            if !additional.contains(&more) {
                additional.push(more);
            }
        }
        Ok(User {
            uid,
            gid,
            additional_gids: additional,
        })
    }

    fn by_uid(&self, uid: u32) -> (u32, u32, Option<String>) {
        match self.users.iter().find(|entry| entry.uid == uid) {
            Some(entry) => (uid, entry.gid, Some(entry.name.clone())),
            None => (uid, 0, None),
        }
    }

    fn by_text(&self, text: &str) -> Result<(u32, u32, Option<String>), UserError> {
        if let Some(entry) = self.users.iter().find(|entry| entry.name == text) {
            return Ok((entry.uid, entry.gid, Some(entry.name.clone())));
        }
        match text.parse() {
            Ok(uid) => Ok(self.by_uid(uid)),
            Err(_) => Err(UserError {
                what: "user",
                name: text.to_owned(),
                file: "passwd",
            }),
        }
    }

    fn group_by_text(&self, text: &str) -> Result<u32, UserError> {
        if let Some(group) = self.groups.iter().find(|group| group.name == text) {
            return Ok(group.gid);
        }
        text.parse().map_err(|_| UserError {
            what: "group",
            name: text.to_owned(),
            file: "group",
        })
    }

    fn groups_of(&self, user: Option<&str>) -> Vec<u32> {
        let Some(user) = user else {
            return Vec::new();
        };
        self.groups
            .iter()
            .filter(|group| group.members.iter().any(|member| member == user))
            .map(|group| group.gid)
            .collect()
    }
}

fn user_line(line: &str) -> Option<Entry> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(Entry { name, uid, gid })
}

fn group_line(line: &str) -> Option<Group> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
    let gid = fields.nth(1)?.parse().ok()?;
    let members = fields
        .next()
        .unwrap_or_default()
        .split(',')
        .map(|member| member.trim().to_owned())
        .filter(|member| !member.is_empty())
        .collect();
    Some(Group { name, gid, members })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn db() -> UserDb {
        UserDb::parse(
            "root:x:0:0:root:/root:/bin/sh\n# no\nweb:x:101:102::/:/bin/false\n",
            "root:x:0:root\nwww:x:33:web, other\nweb:x:102:\n",
        )
    }

    fn ids(security: &Security, image: &str) -> (u32, u32, Vec<u32>) {
        let user = db().resolve(security, image).unwrap();
        (user.uid, user.gid, user.additional_gids)
    }

    #[test]
    fn names_and_numbers_are_looked_up_in_the_image() {
        let none = Security::default();
        assert_eq!(ids(&none, ""), (0, 0, vec![0]));
        assert_eq!(ids(&none, "web"), (101, 102, vec![102, 33]));
        assert_eq!(ids(&none, "101"), (101, 102, vec![102, 33]));
        assert_eq!(ids(&none, "web:www"), (101, 33, vec![33]));
        assert_eq!(ids(&none, "7:8"), (7, 8, vec![8]));
    }

    #[test]
    fn the_containers_wishes_win_over_the_image() {
        let wish = Security {
            user: Some(101),
            supplemental_groups: vec![33, 2000],
            ..Security::default()
        };
        assert_eq!(ids(&wish, "7:8"), (101, 102, vec![102, 33, 2000]));
        let wish = Security {
            group: Some(9),
            ..Security::default()
        };
        assert_eq!(ids(&wish, "web:www"), (101, 9, vec![9, 33]));
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        let error = db().resolve(&Security::default(), "nobody").unwrap_err();
        assert_eq!(
            error.to_string(),
            "unable to find user nobody: no matching entries in passwd file"
        );
    }
}
