//! Who besides the owner may open the sockets of serve.

use clap::Args;
use std::str::FromStr;

/// Who may open the sockets.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct AccessArgs {
    /// Let this group, by name or number, open the call's socket, and the streaming endpoint's if
    /// that is one: mode 0660. Whoever may open it may forward from every sandbox of the node.
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<Group>,
}

impl AccessArgs {
    /// The group's number.
    #[must_use]
    pub fn gid(&self) -> Option<u32> {
        self.socket_group.map(|group| group.0)
    }
}

/// A group, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group(u32);

impl FromStr for Group {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            let gid = text.parse().ok().filter(|gid| *gid != u32::MAX);
            return gid
                .map(Self)
                .ok_or_else(|| format!("{text} is too large for the number of a group"));
        }
        match nix::unistd::Group::from_name(text) {
            Ok(Some(group)) => Ok(Self(group.gid.as_raw())),
            Ok(None) => Err(format!(
                "there is no group {text:?} on this node: make it, or give a number"
            )),
            Err(error) => Err(format!(
                "group {text:?} cannot be looked up: {}: give a number",
                error.desc()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_a_number_or_the_name_of_one_that_is_there() {
        assert_eq!("7".parse(), Ok(Group(7)));
        assert_eq!("root".parse(), Ok(Group(0)));
        for bad in ["", "-1", "4294967295", "99999999999", "no such group"] {
            bad.parse::<Group>().expect_err(bad);
        }
    }
}
