//! Named lists that rules and queries look into with `in_list`.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use regex::RegexSet;

use crate::functions::network::{Network, Point, point};
use crate::functions::text::glob_to_regex;
use crate::nearest::did_you_mean;

/// A list that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("list {list}: {reason}")]
pub struct BadList {
    pub list: String,
    pub reason: String,
}

/// Lists by name.
#[derive(Debug, Default, PartialEq)]
pub struct Lists(BTreeMap<String, Arc<List>>);

impl Lists {
    /// Adds a list, in place of one of that name. An entry is an IP address or a network in CIDR notation, a glob if it has a
    /// `*` or a `?`, and else a text.
    pub fn insert(&mut self, name: impl Into<String>, entries: Vec<String>) -> Result<(), BadList> {
        let name = name.into();
        match List::read(entries) {
            Ok(list) => {
                self.0.insert(name, Arc::new(list));
                Ok(())
            }
            Err(reason) => Err(BadList { list: name, reason }),
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The list of that name, or what is said to who asks for one that isn't there.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<List>, String> {
        let Some(list) = self.0.get(name) else {
            let near = did_you_mean(name, self.names());
            let names: Vec<_> = self.names().collect();
            return Err(match (near.is_empty(), names.is_empty()) {
                (false, _) => format!("no list {name:?}{near}"),
                (true, false) => format!("no list {name:?}; there are {}", names.join(", ")),
                (true, true) => format!("no list {name:?}: no lists are configured"),
            });
        };
        Ok(list.clone())
    }
}

/// One list, sorted by how its entries match.
#[derive(Debug)]
pub(crate) struct List {
    /// As they were given.
    entries: Vec<String>,
    texts: HashSet<String>,
    /// In order, none overlapping.
    networks: Vec<Network>,
    globs: RegexSet,
}

impl List {
    fn read(entries: Vec<String>) -> Result<Self, String> {
        let (mut texts, mut networks, mut globs) = (HashSet::new(), Vec::new(), Vec::new());
        for entry in entries.iter().cloned() {
            if entry.split('/').next().is_some_and(|address| address.parse::<IpAddr>().is_ok()) {
                networks.push(Network::parse(&entry)?);
            } else if entry.contains(['*', '?']) {
                globs.push(glob_to_regex(&entry)?);
            } else {
                texts.insert(entry);
            }
        }
        let globs = RegexSet::new(globs).map_err(|_| "its globs are too many or too long".to_owned())?;
        Ok(Self { entries, texts, networks: merged(networks), globs })
    }

    pub(crate) fn contains(&self, value: &str) -> bool {
        self.texts.contains(value) || point(value).is_some_and(|point| self.has(point)) || self.globs.is_match(value)
    }

    fn has(&self, point: Point) -> bool {
        let behind = self.networks.partition_point(|network| network.first <= point);
        self.networks[..behind].last().is_some_and(|network| point <= network.last)
    }
}

impl PartialEq for List {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

/// Networks in order, with those that are within another left out. Networks never overlap otherwise.
fn merged(mut networks: Vec<Network>) -> Vec<Network> {
    // The wider of two that begin together comes first.
    networks.sort_unstable_by(|a, b| a.first.cmp(&b.first).then(b.last.cmp(&a.last)));
    let mut apart: Vec<Network> = Vec::with_capacity(networks.len());
    for network in networks {
        if apart.last().is_none_or(|wider| wider.last < network.first) {
            apart.push(network);
        }
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(entries: &[&str], inside: &[&str], outside: &[&str]) {
        let mut lists = Lists::default();
        lists.insert("l", entries.iter().map(|entry| (*entry).to_owned()).collect()).unwrap();
        let list = lists.get("l").unwrap();
        for value in inside {
            assert!(list.contains(value), "{value:?} is not in {entries:?}");
        }
        for value in outside {
            assert!(!list.contains(value), "{value:?} is in {entries:?}");
        }
    }

    #[test]
    fn texts_networks_and_globs_match() {
        check(&[], &[], &["", "a", "10.0.0.1"]);
        check(&["olga", "a/b", "[x]"], &["olga", "a/b", "[x]"], &["Olga", "olga ", "", "x"]);
        check(&["10.0.0.0/8", "10.0.0.1"], &["10.0.0.1", "10.255.0.1", "::ffff:10.2.3.4"], &["11.0.0.1", "10.0.0.0/8"]);
        check(&["2001:DB8::1"], &["2001:db8::1", "2001:db8:0::1"], &["2001:db8::2"]);
        check(&["system:node:*", "*-??"], &["system:node:a", "system:node:", "app-01"], &["system:nodes", "app-1"]);
        check(&["*"], &["", "anything"], &[]);
    }

    #[test]
    fn networks_within_networks_are_one() {
        let networks = ["10.0.0.0/16", "10.0.0.0/8", "10.9.0.0/16", "11.0.0.0/8", "::/0", "fd00::/8", "9.0.0.0/8"];
        check(
            &networks,
            &["9.0.0.0", "10.255.255.255", "11.0.0.0", "::", "ffff::"],
            &["8.255.255.255", "12.0.0.0", "0.0.0.0", "255.255.255.255"],
        );
        let parsed = networks.iter().map(|network| Network::parse(network).unwrap()).collect();
        assert_eq!(merged(parsed).len(), 4);
    }

    #[test]
    fn bad_entries_are_named() {
        for (entry, word) in
            [("10.0.0.0/33", "10.0.0.0/33"), ("10.0.0.1/a/b", "10.0.0.1/a/b"), ("[*", "[*"), ("*\\", "backslash")]
        {
            let error = Lists::default().insert("trusted", vec![entry.into()]).unwrap_err().to_string();
            assert!(error.starts_with("list trusted: ") && error.contains(word), "{error}");
        }
        let long = Lists::default().insert("trusted", vec!["?".repeat(100_000)]).unwrap_err().to_string();
        assert!(long.contains("too long"), "{long}");
    }

    #[test]
    fn names_are_listed_and_unknown_ones_explained() {
        let mut lists = Lists::default();
        assert_eq!(lists.get("a").unwrap_err(), "no list \"a\": no lists are configured");
        lists.insert("trusted", vec!["x".into()]).unwrap();
        lists.insert("admins", vec![]).unwrap();
        lists.insert("trusted", vec!["y".into()]).unwrap();
        assert_eq!(lists.names().collect::<Vec<_>>(), ["admins", "trusted"]);
        assert!(lists.get("trusted").unwrap().contains("y") && !lists.get("trusted").unwrap().contains("x"));
        assert_eq!(lists.get("truste").unwrap_err(), "no list \"truste\"; did you mean trusted?");
        assert_eq!(lists.get("zzz").unwrap_err(), "no list \"zzz\"; there are admins, trusted");
    }
}
