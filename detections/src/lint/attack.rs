//! Which ATT&CK techniques there are.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The version of the list: Enterprise ATT&CK 17, a technique a line, with the numbers of its sub-techniques.
const LIST: &str = include_str!("attack.txt");

/// Why an id is not one of a technique, if it isn't. A technique with a number above all that are listed passes, since it may
/// be newer than the list.
pub fn problem(id: &str) -> Option<String> {
    static KNOWN: LazyLock<BTreeMap<&str, Vec<&str>>> = LazyLock::new(|| {
        let technique = |line: &'static str| {
            let mut words = line.split(' ');
            Some((words.next()?, words.collect()))
        };
        LIST.lines().filter_map(technique).collect()
    });
    let digits = |text: &str, count: usize| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let (technique, sub) = id.split_once('.').map_or((id, None), |(technique, sub)| (technique, Some(sub)));
    let number = technique.strip_prefix('T').filter(|number| digits(number, 4));
    if number.is_none() || sub.is_some_and(|sub| !digits(sub, 3)) {
        return Some(format!("{id} is not a technique id such as T1552 or T1552.007"));
    }
    let there = match KNOWN.get(technique) {
        Some(subs) => sub.is_none_or(|sub| subs.contains(&sub)),
        None => KNOWN.last_key_value().is_some_and(|(last, _)| technique > *last),
    };
    (!there).then(|| format!("{id} is no technique of ATT&CK 17"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn techniques_that_are_there_pass() {
        for id in ["T1552", "T1552.007", "T1613", "T1098.006", "T1999"] {
            assert_eq!(problem(id), None);
        }
        for (id, want) in [
            ("T1552.099", "no technique of ATT&CK 17"),
            ("T1000", "no technique"),
            ("T1552.7", "not a technique id"),
            ("1552", "not a technique id"),
            ("T15522", "not a technique id"),
            ("TA0006", "not a technique id"),
        ] {
            assert!(problem(id).unwrap().contains(want), "{id}");
        }
    }
}
