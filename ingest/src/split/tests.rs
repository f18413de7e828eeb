//! The splitter against serde_json and against broken bodies.

use serde_json::value::RawValue;

use super::*;

const OPTIONS: Options = Options { lists: true, max_event_bytes: 1 << 20 };

/// Events and rejections as text, the latter behind a `!`.
fn shown(pieces: Vec<Piece>) -> Vec<String> {
    pieces
        .into_iter()
        .map(|piece| match piece {
            Piece::Event { bytes, .. } => String::from_utf8_lossy(&bytes).into_owned(),
            Piece::Rejected { bytes, .. } => format!("!{}", String::from_utf8_lossy(&bytes)),
        })
        .collect()
}

/// Splits in one piece, a byte at a time, and one piece at a time: all give what is expected.
fn check(body: &str, expected: &[&str]) {
    check_within(body, expected, OPTIONS);
}

fn check_within(body: &str, expected: &[&str], options: Options) {
    assert_eq!(shown(split_all(body.as_bytes(), options)), expected, "in one piece: {body}");
    let mut out = Vec::new();
    let mut splitter = Splitter::new(options);
    for byte in body.as_bytes() {
        splitter.push(&[*byte], &mut out);
    }
    splitter.finish(&mut out);
    assert_eq!(shown(out), expected, "byte by byte: {body}");
    let mut splitter = Splitter::new(options);
    splitter.add(body.as_bytes());
    let mut out = few_by_few(&mut splitter, 1);
    splitter.end();
    out.extend(few_by_few(&mut splitter, 1));
    assert_eq!(shown(out), expected, "piece by piece: {body}");
}

/// What a splitter has, fetched in portions of so many pieces.
fn few_by_few(splitter: &mut Splitter, most: usize) -> Vec<Piece> {
    let (mut out, mut portion) = (Vec::new(), Vec::new());
    loop {
        let more = splitter.proceed(most, &mut portion);
        assert!(portion.len() <= most + 1, "{} pieces at once", portion.len());
        out.append(&mut portion);
        if !more {
            return out;
        }
    }
}

#[test]
fn every_form_of_body() {
    check("", &[]);
    check(" \r\n\t", &[]);
    check(r#"{"a":1}"#, &[r#"{"a":1}"#]);
    check("\u{feff}{\"a\":1}", &[r#"{"a":1}"#]);
    check("{\"a\":1}\n{\"b\":2}\r\n\n{\"c\":3}", &[r#"{"a":1}"#, r#"{"b":2}"#, r#"{"c":3}"#]);
    check(r#"{"a":1}{"b":2}"#, &[r#"{"a":1}"#, r#"{"b":2}"#]);
    check(r#" [ {"a":[1,{}]} , {"b":"]}"} ] "#, &[r#"{"a":[1,{}]}"#, r#"{"b":"]}"}"#]);
    check("[]", &[]);
    check("{\n  \"a\": {\n    \"b\": [\n{}\n]\n  }\n}\n", &["{\n  \"a\": {\n    \"b\": [\n{}\n]\n  }\n}"]);
}

#[test]
fn event_lists_with_keys_in_any_order() {
    check(
        r#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[{"a":1},{"b":2}]}"#,
        &[r#"{"a":1}"#, r#"{"b":2}"#],
    );
    check(
        r#"{"apiVersion":"audit.k8s.io/v1","items":[{"a":1}],"kind":"EventList","metadata":{"x":[1]}}"#,
        &[r#"{"a":1}"#],
    );
    check(r#"{"items":[{"a":1}],"kind":"EventList"}"#, &[r#"{"a":1}"#]);
    check(
        "{\"kind\":\"EventList\",\"items\":[{\"a\":1}]}\n{\"kind\":\"EventList\",\"items\":[{\"b\":1}]}\n",
        &[r#"{"a":1}"#, r#"{"b":1}"#],
    );
    check(r#"{"kind":"EventList","items":null}"#, &[]);
    check(r#"{"kind":"EventList","items":[]}"#, &[]);
    check(r#"{"kind":"EventList"}"#, &[]);
}

#[test]
fn objects_with_items_that_are_no_lists_of_events() {
    check(r#"{"kind":"PodList","items":[{"a":1}]}"#, &[r#"{"kind":"PodList","items":[{"a":1}]}"#]);
    check(r#"{"auditID":"x","items":[{"a":1}]}"#, &[r#"{"auditID":"x","items":[{"a":1}]}"#]);
    check(r#"{"kind":"EventList","items":{"a":1}}"#, &[r#"{"kind":"EventList","items":{"a":1}}"#]);
    check(
        r#"{"auditID":"x","requestObject":{"items":[{"a":1}]}}"#,
        &[r#"{"auditID":"x","requestObject":{"items":[{"a":1}]}}"#],
    );
    let piece = split_all(br#"{"auditID":"x","kind":"Event"}"#, OPTIONS).remove(0);
    let Piece::Event { form, .. } = piece else { panic!("{piece:?}") };
    assert_eq!(form, Form::Bare { kind: Some("Event".into()), audit_id: true });
}

#[test]
fn strings_hide_brackets_and_escapes_hide_quotes() {
    check(r#"[{"a":"\"}]\\"},{"b":"\\\""}]"#, &[r#"{"a":"\"}]\\"}"#, r#"{"b":"\\\""}"#]);
    check(r#"{"a\"b":"{","c":1}"#, &[r#"{"a\"b":"{","c":1}"#]);
}

#[test]
fn elements_that_are_no_objects_are_rejected_alone() {
    check(r#"[1,"a,]",null,[{"x":1}],{"b":2}]"#, &["!1", "!\"a,]\"", "!null", "![{\"x\":1}]", r#"{"b":2}"#]);
    check(r#"{"kind":"EventList","items":[null,{"a":1}]}"#, &["!null", r#"{"a":1}"#]);
}

#[test]
fn broken_lines_leave_their_neighbours_alone() {
    check("{\"a\":1}\nhello\n{\"b\":2}\n", &[r#"{"a":1}"#, "!hello", r#"{"b":2}"#]);
    check("{\"a\":1}\n{\"b\":\"cut\n{\"c\":3}\n", &[r#"{"a":1}"#, "!{\"b\":\"cut", r#"{"c":3}"#]);
    check("{\"a\":1}\n{\"b\":[1,\n{\"c\":3}\n", &[r#"{"a":1}"#, "!{\"b\":[1,", r#"{"c":3}"#]);
    check("{\"b\":{\"x\":1,\n{\"c\":3}\n{\"d\":4}", &["!{\"b\":{\"x\":1,", r#"{"c":3}"#, r#"{"d":4}"#]);
    check("{\"a\":]}\n{\"b\":2}", &["!{\"a\":]}", r#"{"b":2}"#]);
    check("x\ny\n{\"b\":2}\nz", &["!x\ny", r#"{"b":2}"#, "!z"]);
    check("[\n{\"a\":1},\n{\"b\":]},\n{\"c\":3}\n]\n", &[r#"{"a":1}"#, "!{\"b\":]},", r#"{"c":3}"#]);
    check("hello", &["!hello"]);
    check("}{", &["!}{"]);
}

#[test]
fn cut_off_bodies_keep_what_is_whole() {
    check(r#"{"kind":"EventList","items":[{"a":1},{"b":"tr"#, &[r#"{"a":1}"#, "!{\"b\":\"tr"]);
    check(r#"{"kind":"EventList","items":[{"a":1}"#, &[r#"{"a":1}"#]);
    check(r#"{"kind":"Event","audit"#, &["!{\"kind\":\"Event\",\"audit"]);
    check(
        r#"{"kind":"Event","requestObject":{"a[Truncated...]"#,
        &["!{\"kind\":\"Event\",\"requestObject\":{\"a[Truncated...]"],
    );
    let mut out = Vec::new();
    let mut splitter = Splitter::new(OPTIONS);
    splitter.push(b"{\"a\":1}{\"b\"", &mut out);
    splitter.cut("too long");
    splitter.proceed(usize::MAX, &mut out);
    assert_eq!(out.pop(), Some(Piece::Rejected { bytes: "{\"b\"".into(), reason: "too long".into() }));
}

#[test]
fn nesting_is_bounded() {
    let deep = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    let fine = deep(MAX_DEPTH - 1);
    check(&fine, &[&fine]);
    let bomb = deep(50_000);
    let body = format!("[{bomb},{{\"b\":2}}]");
    assert_eq!(shown(split_all(body.as_bytes(), OPTIONS)), [format!("!{bomb}"), r#"{"b":2}"#.to_owned()]);
    let bare = format!("{bomb}\n{{\"b\":2}}");
    assert_eq!(shown(split_all(bare.as_bytes(), OPTIONS)), [format!("!{bomb}"), r#"{"b":2}"#.to_owned()]);
}

#[test]
fn long_events_are_rejected_in_parts_and_nothing_is_lost() {
    let options = Options { lists: true, max_event_bytes: 10 };
    let body = r#"[{"a":1},{"long":"0123456789"},{"b":2}]"#;
    for chunk in [1, 3, 7, 100] {
        let mut out = Vec::new();
        let mut splitter = Splitter::new(options);
        for chunk in body.as_bytes().chunks(chunk) {
            splitter.push(chunk, &mut out);
            assert!(splitter.buffered() <= 10, "the buffer is bounded");
        }
        splitter.finish(&mut out);
        let shown = shown(out);
        assert_eq!(shown.first().unwrap(), r#"{"a":1}"#);
        assert_eq!(shown.last().unwrap(), r#"{"b":2}"#);
        let parts: Vec<_> = shown[1..shown.len() - 1].iter().map(|part| part.strip_prefix('!').unwrap()).collect();
        assert_eq!(parts.concat(), r#"{"long":"0123456789"}"#);
        assert!(parts.iter().all(|part| part.len() <= 11), "{parts:?}");
    }
}

#[test]
fn a_long_value_that_turns_out_to_be_many_events_comes_a_few_at_a_time() {
    let options = Options { lists: true, max_event_bytes: 3000 };
    let body = format!("{{\"a\":[{}", "\n{}".repeat(1500));
    let mut splitter = Splitter::new(options);
    splitter.add(body.as_bytes());
    let mut out = few_by_few(&mut splitter, 10);
    splitter.end();
    out.extend(few_by_few(&mut splitter, 10));
    assert_eq!(shown(out), shown(split_all(body.as_bytes(), options)));
}

#[test]
fn garbage_is_kept_whole_in_bounded_parts() {
    let garbage = "x".repeat(1000);
    let options = Options { lists: true, max_event_bytes: 64 };
    let mut out = Vec::new();
    let mut splitter = Splitter::new(options);
    for chunk in garbage.as_bytes().chunks(50) {
        splitter.push(chunk, &mut out);
    }
    splitter.finish(&mut out);
    let kept: usize = out
        .iter()
        .map(|piece| match piece {
            Piece::Rejected { bytes, reason } if reason == "not JSON" => bytes.len(),
            other => panic!("{other:?}"),
        })
        .sum();
    assert_eq!(kept, 1000);
}

#[test]
fn a_body_made_to_be_rescanned_is_given_up_in_time() {
    let body = "{\"a\":[\n".repeat(200_000);
    let started = std::time::Instant::now();
    let pieces = split_all(body.as_bytes(), Options { lists: true, max_event_bytes: 1 << 30 });
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    assert_eq!(shown(pieces), [format!("!{}", body.trim_end())]);
}

/// A small generator of odd JSON, seeded.
struct Odd(u64);

impl Odd {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn string(&mut self) -> String {
        const PIECES: [&str; 12] = ["a", "{", "}", "[", "]", "\"", "\\", "\n", "é", ",", "items", "\u{1}"];
        let length = self.below(6);
        let text: String = (0..length).map(|_| PIECES[self.below(12) as usize]).collect();
        serde_json::to_string(&text).unwrap()
    }

    fn space(&mut self) -> &'static str {
        ["", "", "", " ", "\n", "\r\n\t"][self.below(6) as usize]
    }

    fn value(&mut self, depth: u64) -> String {
        match self.below(if depth > 4 { 4 } else { 6 }) {
            0 => self.string(),
            1 => "-1.5e+10".into(),
            2 => ["true", "false", "null"][self.below(3) as usize].into(),
            3 => self.below(u64::MAX).to_string(),
            4 => self.object(depth + 1),
            _ => {
                let parts: Vec<_> = (0..self.below(4)).map(|_| self.value(depth + 1)).collect();
                format!("[{}{}{}]", self.space(), parts.join(","), self.space())
            }
        }
    }

    fn object(&mut self, depth: u64) -> String {
        let parts: Vec<_> = (0..self.below(4))
            .map(|_| format!("{}{}:{}{}", self.space(), self.string(), self.space(), self.value(depth + 1)))
            .collect();
        format!("{{{}{}}}", parts.join(","), self.space())
    }
}

#[test]
fn agrees_with_serde_json_over_any_chunks() {
    #[derive(serde::Deserialize)]
    struct List<'a> {
        #[serde(borrow)]
        items: Vec<&'a RawValue>,
    }
    let mut odd = Odd(0x9e37_79b9_7f4a_7c15);
    for round in 0..2_000 {
        let count = odd.below(5);
        let items: Vec<_> = (0..count).map(|_| odd.object(0)).collect();
        let list =
            format!("[{}{}{}]", odd.space(), items.join(&format!("{},{}", odd.space(), odd.space())), odd.space());
        let (body, expected): (String, Vec<String>) = match round % 3 {
            0 => {
                let metadata = odd.value(0);
                let body =
                    format!("{{\"kind\":\"EventList\",\"metadata\":{metadata},\"items\":{list},\"z\":{metadata}}}");
                let list: List = serde_json::from_str(&body).unwrap();
                let expected = list.items.iter().map(|raw| raw.get().to_owned()).collect();
                (body, expected)
            }
            1 => {
                let raw: Vec<&RawValue> = serde_json::from_str(&list).unwrap();
                let expected = raw.iter().map(|raw| raw.get().to_owned()).collect();
                (list, expected)
            }
            _ => {
                let items: Vec<_> = items.iter().map(|item| format!("{{\"kind\":\"Event\",\"x\":{item}}}")).collect();
                let body = items.join("\n");
                let raw = serde_json::Deserializer::from_str(&body).into_iter::<Box<RawValue>>();
                let expected = raw.map(|raw| raw.unwrap().get().to_owned()).collect();
                (body, expected)
            }
        };
        let mut out = Vec::new();
        let mut splitter = Splitter::new(OPTIONS);
        let mut rest = body.as_bytes();
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at((odd.below(40) as usize + 1).min(rest.len()));
            splitter.push(chunk, &mut out);
            rest = behind;
        }
        splitter.finish(&mut out);
        assert_eq!(shown(out), expected, "{body}");
    }
}
