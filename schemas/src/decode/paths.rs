//! Values at paths into JSON bodies: any number of paths, found in one pass, which looks only where a path leads and ends
//! with the last of them.

use super::escape::unescape;
use super::words::ends;
use super::{skip, strings};

/// A step of a path: a key of an object, or a place in an array, from 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Key(String),
    Index(usize),
}

/// Paths as a tree.
#[derive(Debug, Default)]
pub struct Paths {
    root: Node,
    count: usize,
}

#[derive(Debug, Default)]
struct Node {
    /// The bits of all paths that lead here or through here.
    bits: u64,
    path: Option<usize>,
    keys: Vec<Child<String>>,
    /// A bit for each length that a key has.
    lengths: u64,
    places: Vec<Child<usize>>,
}

#[derive(Debug)]
struct Child<K> {
    step: K,
    /// A key's ends, to compare it by.
    ends: [u64; 2],
    node: Node,
}

/// Room for a walk over a body, to use again.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Of the objects that the walk is in, which keys were met.
    met: Vec<bool>,
}

impl Paths {
    /// Enters a path that was not entered before. Returns its number, from 0.
    pub fn add(&mut self, path: &[Step]) -> usize {
        let bit = Self::bit(self.count);
        let mut node = &mut self.root;
        node.bits |= bit;
        for step in path {
            node = match step {
                Step::Key(key) => {
                    node.lengths |= length(key);
                    child(&mut node.keys, key, ends(key.as_bytes()))
                }
                Step::Index(index) => child(&mut node.places, index, [0; 2]),
            };
            node.bits |= bit;
        }
        node.path = Some(self.count);
        self.count += 1;
        self.count - 1
    }

    /// What asks for a path: a bit of its own for each of the first 64, which later ones share.
    pub fn bit(path: usize) -> u64 {
        1 << (path % 64)
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The text of the value at each path, by the path's number; `None` where there is none, and perhaps where `asked` lacks the
    /// path's bit. Of equal keys the first counts.
    ///
    /// The body must be JSON, as every body is that was decoded; of anything else something or nothing is found.
    pub fn find<'a>(&self, body: &'a str, asked: u64, scratch: &mut Scratch, found: &mut Vec<Option<&'a str>>) {
        found.clear();
        found.resize(self.count, None);
        scratch.met.clear();
        let mut walk = Walk { body, asked, scratch, at: 0 };
        // A body that ends early has no more to find.
        let _ = walk.value(&self.root, found, true);
    }
}

/// The bit of a key's length; all long ones have the same.
fn length(key: &str) -> u64 {
    1 << key.len().min(63)
}

fn child<'n, K: PartialEq + Clone>(children: &'n mut Vec<Child<K>>, step: &K, ends: [u64; 2]) -> &'n mut Node {
    let place = children.iter().position(|child| child.step == *step).unwrap_or_else(|| {
        children.push(Child { step: step.clone(), ends, node: Node::default() });
        children.len() - 1
    });
    &mut children[place].node
}

/// A walk over a body.
struct Walk<'a, 's> {
    body: &'a str,
    /// The bits of the paths that are asked for.
    asked: u64,
    scratch: &'s mut Scratch,
    at: usize,
}

impl<'a> Walk<'a, '_> {
    /// Whether a path that is asked for leads to a node or through it.
    #[inline(always)]
    fn asks(&self, node: &Node) -> bool {
        node.bits & self.asked != 0
    }

    /// How many of a node's steps are asked for.
    #[inline(always)]
    fn steps<K>(&self, children: &[Child<K>]) -> usize {
        children.iter().filter(|child| self.asks(&child.node)).count()
    }

    /// The next byte that is not white space. The end of the body is none.
    #[inline(always)]
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.body.as_bytes().get(self.at)?;
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// Passes a value and notes what of the node's paths is in it. None ends the walk: where the body does, or where nothing
    /// is left to find, if this is the last value of which something is wanted.
    fn value(&mut self, node: &Node, found: &mut [Option<&'a str>], last: bool) -> Option<()> {
        let first = self.peek()?;
        let start = self.at;
        let path = node.path.filter(|path| Paths::bit(*path) & self.asked != 0);
        let last = last && path.is_none();
        match (first, self.steps(&node.keys), self.steps(&node.places)) {
            (b'{', keys @ 1.., _) => self.object(node, keys, found, last)?,
            (b'[', _, places @ 1..) => self.array(node, places, found, last)?,
            _ if last => return None,
            _ => self.skip(first)?,
        }
        if let Some(path) = path {
            found[path] = self.body.get(start..self.at);
        }
        Some(())
    }

    /// Passes an object, in which `left` of the node's keys are asked for.
    fn object(&mut self, node: &Node, mut left: usize, found: &mut [Option<&'a str>], last: bool) -> Option<()> {
        let first_met = self.scratch.met.len();
        self.scratch.met.resize(first_met + node.keys.len(), false);
        self.at += 1;
        while left > 0 && self.peek()? == b'"' {
            let start = self.at + 1;
            let (end, escaped) = strings::end(self.body.as_bytes(), start)?;
            self.at = end + 1;
            self.expect(b':')?;
            match self.wanted(node, start, end, escaped, first_met) {
                Some(place) => {
                    // Of equal keys the first counts.
                    self.scratch.met[first_met + place] = true;
                    left -= 1;
                    self.value(&node.keys[place].node, found, last && left == 0)?;
                }
                None => {
                    let first = self.peek()?;
                    self.skip(first)?;
                }
            }
            self.comma()?;
        }
        self.scratch.met.truncate(first_met);
        self.leave(last)
    }

    /// The key of a node that stands there, is asked for and was not met.
    #[inline(always)]
    fn wanted(&self, node: &Node, start: usize, end: usize, escaped: bool, first_met: usize) -> Option<usize> {
        let raw = self.body.get(start..end)?;
        let open = |place: &usize| self.asks(&node.keys[*place].node) && !self.scratch.met[first_met + place];
        if escaped {
            let key = unescape(raw).0;
            return node.keys.iter().position(|child| child.step == *key).filter(open);
        }
        if node.lengths & length(raw) == 0 {
            return None;
        }
        let ends = ends(raw.as_bytes());
        let is = |child: &Child<String>| {
            child.step.len() == raw.len() && child.ends == ends && (raw.len() <= 16 || child.step == raw)
        };
        node.keys.iter().position(is).filter(open)
    }

    /// Passes an array, in which `left` of the node's places are asked for.
    fn array(&mut self, node: &Node, mut left: usize, found: &mut [Option<&'a str>], last: bool) -> Option<()> {
        self.at += 1;
        let mut place = 0;
        while left > 0 {
            let first = self.peek()?;
            if first == b']' {
                break;
            }
            match node.places.iter().find(|child| child.step == place && self.asks(&child.node)) {
                Some(child) => {
                    left -= 1;
                    self.value(&child.node, found, last && left == 0)?;
                }
                None => self.skip(first)?,
            }
            place += 1;
            self.comma()?;
        }
        self.leave(last)
    }

    /// Passes what is left of the container that the walk is in, or ends the walk.
    fn leave(&mut self, last: bool) -> Option<()> {
        if last {
            return None;
        }
        self.at = skip::container(self.body.as_bytes(), self.at)? + 1;
        Some(())
    }

    fn comma(&mut self) -> Option<()> {
        self.at += usize::from(self.peek()? == b',');
        Some(())
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        let fits = self.peek()? == byte;
        self.at += 1;
        fits.then_some(())
    }

    /// Passes a value by its first byte.
    #[inline(always)]
    fn skip(&mut self, first: u8) -> Option<()> {
        let body = self.body.as_bytes();
        self.at = match first {
            b'"' => strings::end(body, self.at + 1)?.0 + 1,
            b'{' | b'[' => skip::container(body, self.at + 1)? + 1,
            _ => {
                let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
                let length = body.get(self.at..)?.iter().position(ends);
                // What is no JSON must not keep the walk where it is.
                length.map_or(body.len(), |length| self.at + length.max(1))
            }
        };
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn key(key: &str) -> Step {
        Step::Key(key.into())
    }

    #[test]
    fn every_path_is_found_in_one_pass() {
        let mut paths = Paths::default();
        for path in [
            vec![key("a")],
            vec![key("a"), key("b"), Step::Index(1)],
            vec![key("a"), key("c\"")],
            vec![key("d")],
            vec![key("a"), key("b")],
            vec![Step::Index(0)],
            vec![],
        ] {
            paths.add(&path);
        }
        let body = r#" {"d" : -1.5e3 , "a":{"b":[{"x":["]"]}, "two" ],"c\"": null,"b":0}, "d":2} "#;
        let mut found = Vec::new();
        let mut scratch = Scratch::default();
        paths.find(body, u64::MAX, &mut scratch, &mut found);
        assert_eq!(
            found,
            [
                Some(r#"{"b":[{"x":["]"]}, "two" ],"c\"": null,"b":0}"#),
                Some(r#""two""#),
                Some("null"),
                Some("-1.5e3"),
                Some(r#"[{"x":["]"]}, "two" ]"#),
                None,
                Some(body.trim()),
            ]
        );
        for (body, whole) in [("", None), ("7", Some("7")), (" \"a\" ", Some("\"a\"")), ("[]", Some("[]")), ("{", None)]
        {
            paths.find(body, u64::MAX, &mut scratch, &mut found);
            assert_eq!(found[6], whole, "{body:?}");
        }
        paths.find("[{}]", u64::MAX, &mut scratch, &mut found);
        assert_eq!(found[5], Some("{}"));
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-c\"\\\\\\]}{,:é]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[a-d\"]{1,2}", inner, 0..4).prop_map(Value::from_iter),
            ]
        })
    }

    fn path() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof!["[a-d\"]{1,2}".prop_map(Step::Key), (0..3_usize).prop_map(Step::Index)];
        prop::collection::vec(step, 0..4)
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(
            value in json(),
            wanted in prop::collection::hash_set(path(), 1..8),
            asked: u64,
            pretty: bool,
        ) {
            let body = if pretty { serde_json::to_string_pretty(&value)? } else { value.to_string() };
            let mut paths = Paths::default();
            let wanted: Vec<_> = wanted.into_iter().collect();
            for path in &wanted {
                paths.add(path);
            }
            let mut found = Vec::new();
            paths.find(&body, asked, &mut Scratch::default(), &mut found);
            let asked = |(number, _): &(usize, _)| Paths::bit(*number) & asked != 0;
            for (_, (path, found)) in wanted.iter().zip(found).enumerate().filter(asked) {
                let want = path.iter().try_fold(&value, |value, step| match step {
                    Step::Key(key) => value.as_object()?.get(key),
                    Step::Index(index) => value.as_array()?.get(*index),
                });
                let found: Option<Value> = found.map(serde_json::from_str).transpose()?;
                prop_assert_eq!(found.as_ref(), want, "{:?} in {}", path, body);
            }
        }

        #[test]
        fn noise_is_no_matter(body in "[\\[\\]{}:,\"a\\\\0-9 ]{0,16}", wanted in path()) {
            let mut paths = Paths::default();
            paths.add(&wanted);
            paths.find(&body, u64::MAX, &mut Scratch::default(), &mut Vec::new());
        }
    }
}
