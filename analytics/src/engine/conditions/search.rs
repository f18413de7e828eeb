//! Conditions that look for something in one column's texts or lists: compiled once, and asked of the rows that a rule left,
//! where they stand, or of a label column's texts.
//!
//! Parts of texts and elements of lists are looked for together: the first rule that asks about a row has all that any rule
//! looks for in its column answered.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use aho_corasick::{AhoCorasick, Input, Span, packed};
use arrow::array::{Array, AsArray, StringViewArray};
use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::common::{DataFusionError, Result, ScalarValue, internal_datafusion_err, internal_err};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use memchr::memmem;
use regex::Regex;
use regex_syntax::hir::literal::Extractor;

use super::rows::Rows;

/// From so many places with parts on, a text is full of them: an automaton takes the rest.
const MANY: usize = 8;

/// What a condition looks for, and where.
pub struct Search {
    column: usize,
    negated: bool,
    what: What,
}

enum What {
    Like(Box<Like>),
    Matches(Regex),
    /// A text has one of these parts, or a list one of these elements: their numbers among what is looked for together.
    Has(Vec<usize>),
}

/// What is looked for together, by column.
#[derive(Default)]
pub struct Searches {
    columns: BTreeMap<usize, Together>,
}

#[derive(Default)]
struct Together {
    wanted: Vec<String>,
    finder: Option<Finder>,
    /// This batch's rows that were asked about, and where each wanted text was found there.
    asked: Option<Rows>,
    found: Vec<Rows>,
}

/// What a pattern without single wild characters asks of a text: how it begins, what follows somewhere, one after the other,
/// and how it ends.
struct Like {
    begin: String,
    parts: Vec<memmem::Finder<'static>>,
    end: String,
}

/// Finds all that is wanted in a column.
enum Finder {
    Elements(HashMap<String, usize>),
    Parts(Box<Parts>),
}

/// Finds parts of texts, however they overlap.
struct Parts {
    wanted: Vec<String>,
    /// Finds where the next part begins. None if there are too many, or none of the machine's instructions for it.
    next: Option<packed::Searcher>,
    /// Finds all.
    all: AhoCorasick,
}

impl Searches {
    /// A condition as a search, if it is one: `LIKE`, a regular expression, or a function that looks for a literal.
    pub fn add(&mut self, expr: &Expr, schema: &Schema) -> Option<Search> {
        let (column, literal, negated) = match expr {
            Expr::Not(inner) => {
                let search = self.add(inner, schema)?;
                return Some(Search { negated: !search.negated, ..search });
            }
            Expr::Like(like) if !like.case_insensitive && like.escape_char.is_none() => {
                (&*like.expr, &*like.pattern, like.negated)
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                (&**left, &**right, matches!(op, Operator::RegexNotMatch | Operator::RegexNotIMatch))
            }
            Expr::ScalarFunction(call) => match &call.args[..] {
                [column, literal] => (column, literal, false),
                _ => return None,
            },
            _ => return None,
        };
        let column = match column {
            Expr::Cast(cast) if cast.field.data_type().is_string() => &*cast.expr,
            column => column,
        };
        let (Expr::Column(column), Expr::Literal(literal, _)) = (column, literal) else { return None };
        let column = schema.index_of(&column.name).ok()?;
        let what = self.what(expr, column, schema.field(column).data_type(), text(literal)?)?;
        Some(Search { column, negated, what })
    }

    fn what(&mut self, expr: &Expr, column: usize, kind: &DataType, literal: &str) -> Option<What> {
        let name = match expr {
            Expr::ScalarFunction(call) => call.name(),
            _ => "",
        };
        if name == "array_has" {
            let list = matches!(kind, DataType::List(element) if *element.data_type() == DataType::Utf8);
            return list.then(|| What::Has(vec![self.wanted(column, literal)]));
        }
        let column = match kind {
            DataType::Utf8View => Some(column),
            DataType::Dictionary(_, text) if text.is_string() => None,
            _ => return None,
        };
        match (expr, name) {
            (Expr::Like(_), _) => self.like(column, literal),
            (_, "starts_with") => Some(What::Like(Like::new(literal, [], ""))),
            (_, "ends_with") => Some(What::Like(Like::new("", [], literal))),
            (_, "contains") => Some(self.has(column, literal)),
            (_, "regexp_like") => self.regex(column, literal),
            (Expr::BinaryExpr(binary), _) => {
                let flags = match binary.op {
                    Operator::RegexMatch | Operator::RegexNotMatch => "",
                    Operator::RegexIMatch | Operator::RegexNotIMatch => "(?i)",
                    _ => return None,
                };
                self.regex(column, &format!("{flags}{literal}"))
            }
            _ => None,
        }
    }

    /// No `column`: a label's texts, each of which is asked about once and by itself.
    fn regex(&mut self, column: Option<usize>, pattern: &str) -> Option<What> {
        match (column, parts_of(pattern)) {
            (Some(column), Some(parts)) => {
                Some(What::Has(parts.iter().map(|part| self.wanted(column, part)).collect()))
            }
            _ => Regex::new(pattern).ok().map(What::Matches),
        }
    }

    fn like(&mut self, column: Option<usize>, pattern: &str) -> Option<What> {
        // What a backslash means in a pattern is left to Arrow.
        if pattern.contains('\\') {
            return None;
        }
        let parts: Vec<&str> = pattern.split('%').collect();
        match parts[..] {
            ["", part, ""] if !part.contains('_') => Some(self.has(column, part)),
            [begin, ref parts @ .., end] if !pattern.contains('_') => {
                Some(What::Like(Like::new(begin, parts.iter().copied(), end)))
            }
            _ => {
                let regex = regex::escape(pattern).replace('%', ".*").replace('_', ".");
                Regex::new(&format!("(?s)^{regex}$")).ok().map(What::Matches)
            }
        }
    }

    fn has(&mut self, column: Option<usize>, part: &str) -> What {
        match column.filter(|_| !part.is_empty()) {
            Some(column) => What::Has(vec![self.wanted(column, part)]),
            None => What::Like(Like::new("", [part], "")),
        }
    }

    fn wanted(&mut self, column: usize, text: &str) -> usize {
        let Together { wanted, finder, .. } = self.columns.entry(column).or_default();
        *finder = None;
        wanted.iter().position(|known| known == text).unwrap_or_else(|| {
            wanted.push(text.to_owned());
            wanted.len() - 1
        })
    }

    /// Forgets the last batch.
    pub fn begin(&mut self) {
        for together in self.columns.values_mut() {
            together.asked = None;
            together.found.clear();
        }
    }

    /// Leaves the rows where a search's condition is true.
    pub fn narrow(&mut self, batch: &RecordBatch, search: &Search, left: &mut Rows) -> Result<()> {
        let array = batch.column(search.column);
        match &search.what {
            What::Has(numbers) => {
                let Some(together) = self.columns.get_mut(&search.column) else {
                    return internal_err!("nothing is looked for in column {}", search.column);
                };
                search.among(array, together.found(array, numbers, left)?, left);
            }
            _ => {
                let texts = texts(array)?;
                left.retain(|row| texts.is_valid(row) && search.is(texts.value(row)));
            }
        }
        Ok(())
    }
}

impl Search {
    /// Whether the condition is true of one text, if it is not among those that are asked together.
    pub fn is(&self, text: &str) -> bool {
        let found = match &self.what {
            What::Like(like) => like.is(text),
            What::Matches(regex) => regex.is_match(text),
            What::Has(_) => return false,
        };
        found != self.negated
    }

    fn among(&self, array: &dyn Array, found: Cow<'_, Rows>, left: &mut Rows) {
        if !self.negated {
            left.intersect(&found);
            return;
        }
        left.remove(&found);
        if array.is_nullable() {
            left.retain(|row| array.is_valid(row));
        }
    }
}

impl Like {
    fn new<'a>(begin: &str, parts: impl IntoIterator<Item = &'a str>, end: &str) -> Box<Self> {
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        Box::new(Self {
            begin: begin.to_owned(),
            parts: parts.map(|part| memmem::Finder::new(part).into_owned()).collect(),
            end: end.to_owned(),
        })
    }

    fn is(&self, text: &str) -> bool {
        let middle = text.strip_prefix(&*self.begin).and_then(|rest| rest.strip_suffix(&*self.end));
        let Some(mut rest) = middle.map(str::as_bytes) else { return false };
        self.parts.iter().all(|part| {
            let place = part.find(rest);
            place.iter().for_each(|place| rest = &rest[place + part.needle().len()..]);
            place.is_some()
        })
    }
}

impl Together {
    /// Where one of some wanted texts is; right for these rows, and for those asked about before.
    fn found(&mut self, array: &dyn Array, numbers: &[usize], rows: &Rows) -> Result<Cow<'_, Rows>> {
        let nothing = || Rows::none(array.len());
        let asked = self.asked.get_or_insert_with(nothing);
        if self.found.is_empty() {
            self.found = vec![nothing(); self.wanted.len()];
        }
        let mut fresh = rows.clone();
        fresh.remove(asked);
        if !fresh.is_empty() {
            asked.unite(&fresh);
            let finder = match &mut self.finder {
                Some(finder) => finder,
                none => none.insert(Finder::new(&self.wanted, array.data_type())?),
            };
            finder.find(array, &fresh, &mut self.found)?;
        }
        if let [number] = numbers {
            return Ok(Cow::Borrowed(&self.found[*number]));
        }
        let mut any = nothing();
        numbers.iter().for_each(|number| any.unite(&self.found[*number]));
        Ok(Cow::Owned(any))
    }
}

impl Finder {
    fn new(wanted: &[String], kind: &DataType) -> Result<Self> {
        if matches!(kind, DataType::List(_)) {
            let numbered = wanted.iter().enumerate().map(|(number, text)| (text.clone(), number));
            return Ok(Finder::Elements(numbered.collect()));
        }
        // Its own search for where a part may begin is by single bytes, such as the quotes of which bodies are full.
        let all = AhoCorasick::builder().prefilter(false).build(wanted);
        let all = all.map_err(|e| DataFusionError::External(Box::new(e)))?;
        Ok(Finder::Parts(Box::new(Parts { wanted: wanted.to_vec(), next: packed::Searcher::new(wanted), all })))
    }

    /// Notes for some rows what is found there.
    fn find(&self, array: &dyn Array, rows: &Rows, found: &mut [Rows]) -> Result<()> {
        match self {
            Finder::Elements(numbers) => {
                let lists = array.as_list_opt::<i32>();
                let texts = lists.and_then(|lists| Some((lists, lists.values().as_string_opt::<i32>()?)));
                let Some((lists, texts)) = texts else {
                    return internal_err!("elements are looked for in what is no list of texts");
                };
                for row in rows.iter().filter(|row| lists.is_valid(*row)) {
                    for element in lists.value_offsets()[row]..lists.value_offsets()[row + 1] {
                        let element = element as usize;
                        let number = texts.is_valid(element).then(|| numbers.get(texts.value(element))).flatten();
                        number.iter().for_each(|number| found[**number].insert(row));
                    }
                }
            }
            Finder::Parts(parts) => {
                let texts = texts(array)?;
                for row in rows.iter().filter(|row| texts.is_valid(*row)) {
                    parts.find(texts.value(row), |part| found[part].insert(row));
                }
            }
        }
        Ok(())
    }
}

impl Parts {
    /// Calls `is_there` with the number of each part of a text, for some more than once.
    fn find(&self, text: &str, mut is_there: impl FnMut(usize)) {
        let text = text.as_bytes();
        let mut span = Span::from(0..text.len());
        if let Some(next) = &self.next {
            for _ in 0..MANY {
                let Some(first) = next.find_in(text, span) else { return };
                let rest = &text[first.start()..];
                let here = self.wanted.iter().enumerate().filter(|(_, part)| rest.starts_with(part.as_bytes()));
                here.for_each(|(number, _)| is_there(number));
                span.start = first.start() + 1;
            }
        }
        for part in self.all.find_overlapping_iter(Input::new(text).span(span)) {
            is_there(part.pattern().as_usize());
        }
    }
}

/// The texts of which a regular expression finds one, if that is all it does.
fn parts_of(pattern: &str) -> Option<Vec<String>> {
    let regex = regex_syntax::parse(pattern).ok()?;
    if !regex.properties().look_set().is_empty() {
        return None;
    }
    let found = Extractor::new().extract(&regex);
    let parts = found.literals().filter(|_| found.is_exact())?.iter();
    parts.map(|part| String::from_utf8(part.as_bytes().to_vec()).ok().filter(|part| !part.is_empty())).collect()
}

fn texts(array: &dyn Array) -> Result<&StringViewArray> {
    array.as_string_view_opt().ok_or_else(|| internal_datafusion_err!("a text is looked for in what is none"))
}

fn text(literal: &ScalarValue) -> Option<&str> {
    literal.try_as_str().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_however_they_overlap_and_however_many_there_are() {
        let wanted = ["ab", "abc", "b", "bcd", "é", "x"].map(str::to_owned);
        for text in
            ["", "abcd", "zzzzzzzzzzzzzzzzzzzzabcd", "ca", "éa", &"ab".repeat(40), &format!("{}bcdx", "ab".repeat(40))]
        {
            let expected: Vec<usize> = (0..wanted.len()).filter(|part| text.contains(&wanted[*part])).collect();
            let Ok(Finder::Parts(mut parts)) = Finder::new(&wanted, &DataType::Utf8View) else { panic!("no parts") };
            for next in [parts.next.take(), None] {
                parts.next = next;
                let mut found = Vec::new();
                parts.find(text, |part| found.push(part));
                found.sort_unstable();
                found.dedup();
                assert_eq!(found, expected, "{text}");
            }
        }
    }

    #[test]
    fn patterns_ask_for_what_they_say() {
        let is = |begin, parts: &[&str], end, text| Like::new(begin, parts.iter().copied(), end).is(text);
        assert!(is("a", &["b", "", "b"], "c", "abbc") && is("a", &["b", "b"], "c", "a-b-b-c"));
        // Nothing counts twice.
        assert!(!is("a", &["b", "b"], "c", "abc") && !is("ab", &[], "bc", "abc") && !is("a", &["a"], "", "a"));
        assert!(!is("", &["b", "a"], "", "ab") && is("", &[], "", "") && is("é", &[], "é", "éé"));
    }

    #[test]
    fn a_regular_expression_of_plain_texts_is_those_texts() {
        let parts = |pattern| parts_of(pattern).map(|parts| parts.join(" "));
        assert_eq!(parts(r#""(escalate|bind)""#).as_deref(), Some(r#""escalate" "bind""#));
        assert_eq!(parts("a[bc]").as_deref(), Some("ab ac"));
        for other in ["^a", "a$", r"\ba", "a+", "a|b*", "", "a.*b", "(?i)escalate or bind or impersonate"] {
            assert_eq!(parts(other), None, "{other}");
        }
    }
}
