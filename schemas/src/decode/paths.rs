//! Values at paths into JSON bodies: any number of paths, found in one pass over a body's tokens.

use super::escape::unescape;
use super::index::Index;

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
    path: Option<usize>,
    keys: Vec<(String, Node)>,
    places: Vec<(usize, Node)>,
}

/// Room for a body's tokens, to use again.
#[derive(Debug, Default)]
pub struct Scratch(Index);

impl Paths {
    /// Enters a path that was not entered before. Returns its number, from 0.
    pub fn add(&mut self, path: &[Step]) -> usize {
        let mut node = &mut self.root;
        for step in path {
            node = match step {
                Step::Key(key) => child(&mut node.keys, key),
                Step::Index(index) => child(&mut node.places, index),
            };
        }
        node.path = Some(self.count);
        self.count += 1;
        self.count - 1
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The text of the value at each path, by the path's number; `None` where there is none. Of equal keys the first counts.
    ///
    /// The body must be JSON, as every body is that was decoded; of anything else something or nothing is found.
    pub fn find<'a>(&self, body: &'a str, scratch: &mut Scratch, found: &mut Vec<Option<&'a str>>) {
        found.clear();
        found.resize(self.count, None);
        if scratch.0.fill(body).is_ok() {
            let mut walk = Walk { body, tokens: scratch.0.tokens(), next: 0 };
            // A body that ends early has no more to find.
            let _ = walk.value(&self.root, found);
        }
    }
}

fn child<'n, K: PartialEq + Clone>(children: &'n mut Vec<(K, Node)>, key: &K) -> &'n mut Node {
    let place = children.iter().position(|(known, _)| known == key).unwrap_or_else(|| {
        children.push((key.clone(), Node::default()));
        children.len() - 1
    });
    &mut children[place].1
}

/// A walk over the tokens of a body.
struct Walk<'a, 't> {
    body: &'a str,
    tokens: &'t [u32],
    next: usize,
}

impl<'a> Walk<'a, '_> {
    /// Where a token stands, and its first byte. The end of the body is none.
    fn token(&self, number: usize) -> Option<(usize, u8)> {
        let at = *self.tokens.get(number)? as usize;
        Some((at, *self.body.as_bytes().get(at)?))
    }

    /// Passes a value and notes what of the node's paths is in it.
    fn value(&mut self, node: &Node, found: &mut [Option<&'a str>]) -> Option<()> {
        let (start, first) = self.token(self.next)?;
        match first {
            b'{' if !node.keys.is_empty() => self.object(node, found)?,
            b'[' if !node.places.is_empty() => self.array(node, found)?,
            _ => self.skip()?,
        }
        if let Some(path) = node.path {
            let end = match self.token(self.next.checked_sub(1)?)? {
                (at, b'"' | b'}' | b']') => at + 1,
                _ => self.tokens.get(self.next).map_or(self.body.len(), |at| *at as usize),
            };
            found[path] = self.body.get(start..end).map(str::trim_ascii_end);
        }
        Some(())
    }

    fn object(&mut self, node: &Node, found: &mut [Option<&'a str>]) -> Option<()> {
        // Of equal keys the first counts.
        let mut met = vec![false; node.keys.len()];
        self.next += 1;
        while self.token(self.next)?.1 == b'"' {
            let raw = self.body.get(self.token(self.next)?.0 + 1..self.token(self.next + 1)?.0)?;
            self.next += 3; // both quotes and the colon
            let wanted = |(place, (key, _)): &(usize, &(String, Node))| {
                !met[*place] && (key == raw || raw.contains('\\') && *key == unescape(raw).0)
            };
            match node.keys.iter().enumerate().find(wanted) {
                Some((place, (_, child))) => {
                    met[place] = true;
                    self.value(child, found)?;
                }
                None => self.skip()?,
            }
            self.comma()?;
        }
        self.next += 1;
        Some(())
    }

    fn array(&mut self, node: &Node, found: &mut [Option<&'a str>]) -> Option<()> {
        self.next += 1;
        let mut place = 0;
        while self.token(self.next)?.1 != b']' {
            match node.places.iter().find(|(wanted, _)| *wanted == place) {
                Some((_, child)) => self.value(child, found)?,
                None => self.skip()?,
            }
            place += 1;
            self.comma()?;
        }
        self.next += 1;
        Some(())
    }

    fn comma(&mut self) -> Option<()> {
        self.next += usize::from(self.token(self.next)?.1 == b',');
        Some(())
    }

    fn skip(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            let (_, byte) = self.token(self.next)?;
            self.next += 1;
            match byte {
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.checked_sub(1)?,
                b'"' => self.next += 1,
                _ => {}
            }
            if depth == 0 {
                return Some(());
            }
        }
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
        paths.find(body, &mut scratch, &mut found);
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
            paths.find(body, &mut scratch, &mut found);
            assert_eq!(found[6], whole, "{body:?}");
        }
        paths.find("[{}]", &mut scratch, &mut found);
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
        fn agrees_with_serde_json(value in json(), wanted in prop::collection::hash_set(path(), 1..8), pretty: bool) {
            let body = if pretty { serde_json::to_string_pretty(&value)? } else { value.to_string() };
            let mut paths = Paths::default();
            let wanted: Vec<_> = wanted.into_iter().collect();
            for path in &wanted {
                paths.add(path);
            }
            let mut found = Vec::new();
            paths.find(&body, &mut Scratch::default(), &mut found);
            for (path, found) in wanted.iter().zip(found) {
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
            paths.find(&body, &mut Scratch::default(), &mut Vec::new());
        }
    }
}
