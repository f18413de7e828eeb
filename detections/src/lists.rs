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
    /// The place of the entry that is wrong, from 0, if it is one alone.
    pub entry: Option<usize>,
    pub reason: String,
}

/// Lists by name.
#[derive(Debug, Default, PartialEq)]
pub struct Lists(BTreeMap<String, Arc<List>>);

impl Lists {
    /// Adds a list, in place of one of that name. An entry is an IP address or a network in CIDR notation, a glob if it has a
    /// `*` or a `?`, and else a text. What only looks like addresses is an error.
    pub fn insert(&mut self, name: impl Into<String>, entries: Vec<String>) -> Result<(), BadList> {
        let name = name.into();
        match List::read(entries) {
            Ok(list) => {
                self.0.insert(name, Arc::new(list));
                Ok(())
            }
            Err((entry, reason)) => Err(BadList { list: name, entry, reason }),
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
    /// The error names an entry by its place, if it is one alone.
    fn read(entries: Vec<String>) -> Result<Self, (Option<usize>, String)> {
        let (mut texts, mut networks, mut globs) = (HashSet::new(), Vec::new(), Vec::new());
        for (place, entry) in entries.iter().enumerate() {
            let at = |reason| (Some(place), reason);
            if entry.split('/').next().is_some_and(|address| address.parse::<IpAddr>().is_ok()) {
                networks.push(Network::parse(entry).map_err(at)?);
            } else if entry.contains(['*', '?']) {
                globs.push(glob_to_regex(entry).map_err(at)?);
            } else if looks_like_addresses(entry) {
                return Err(at(format!("{entry:?} is neither an address nor a network such as 10.4.0.0/24")));
            } else {
                texts.insert(entry.clone());
            }
        }
        let globs = RegexSet::new(globs).map_err(|_| (None, "its globs are too many or too long".to_owned()))?;
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

/// Whether an entry that is no address must have been meant for one or several: as a text it would match nothing.
fn looks_like_addresses(entry: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let of = |text: &str, others: &str| text.chars().all(|c| c.is_ascii_hexdigit() || others.contains(c));
    // Versions have longer numbers, or fewer.
    let dotted = |text: &str| text.split('.').filter(|part| digits(part) && part.len() <= 3).count();
    let address = |text: &str| {
        text.parse::<IpAddr>().is_ok()
            || dotted(text) == 4 && text.split('.').count() == 4
            || text.contains("::") && of(text, ":.")
    };
    let network = |text: &str| {
        let Some((address, length)) = text.split_once('/') else { return false };
        let shaped = dotted(address) > 1 && dotted(address) == address.split('.').count()
            || address.contains(':') && of(address, ":.");
        shaped && length.split('.').all(digits)
    };
    if address(entry) || network(entry) {
        return true;
    }
    let mut parts = entry.split(['-', ',', ';', ' ', '\t']).filter(|part| !part.is_empty());
    parts.next().is_some_and(|first| first != entry && (address(first) || network(first)))
        && parts.all(|part| of(part, ":./"))
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
    fn what_only_looks_like_addresses_is_refused() {
        for entry in [
            "10.4.0/24",
            "10.4/255.255.0.0",
            "10.5.0.1-10.5.0.9",
            "10.5.0.1 - 10.5.0.9",
            "10.5.0.1-9",
            "10.6.0.300",
            "010.6.0.1",
            "10.0.0.1, 10.0.0.2",
            "10.0.0.1 10.0.0.0/8",
            "fd00::1-fd00::9",
            "fd00::1::2",
            "2001:db8/32",
        ] {
            let error = Lists::default().insert("l", vec!["ci".into(), entry.into()]).unwrap_err();
            assert_eq!(error.entry, Some(1), "{error}");
            assert!(error.reason.contains(entry), "{error}");
        }
        let texts = [
            "1.27.3",
            "v1.2.3.4",
            "10.0.17763.5329",
            "403",
            "2026-01-01",
            "10:30:00",
            "aa:bb:cc:dd:ee:ff",
            "ip-10-0-0-1",
            "1.25/stable",
            "10.0.0.1:443",
            "apps/v1",
            "deadbeef",
            "a/b",
            "shop, office",
            "std::fs",
        ];
        check(&texts, &texts, &["1.2.3.4", "10.0.0.1"]);
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
