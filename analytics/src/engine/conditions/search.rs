//! Conditions that look for something in one column's texts or lists: asked of the rows that a rule left, where they stand.
//!
//! Elements of lists, and parts of texts once there are many, are looked for together: the first rule that asks about a row
//! has all of them answered.

use std::collections::{BTreeMap, HashMap};

use aho_corasick::AhoCorasick;
use arrow::array::{Array, AsArray, StringViewArray};
use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::common::{DataFusionError, Result, ScalarValue, internal_datafusion_err};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use memchr::memmem::Finder;
use regex::Regex;

use super::rows::Rows;

/// From so many parts on, one pass over a text for all of them is cheaper than one for each.
const MANY: usize = 8;

/// What a condition looks for, and where.
pub struct Search {
    column: usize,
    negated: bool,
    what: What,
}

enum What {
    Begins(String),
    Ends(String),
    Matches(Regex),
    /// A part of a text, and its number among those looked for together.
    Has(Box<Finder<'static>>, usize),
    /// An element of a list: its number among those looked for together.
    Element(usize),
}

/// What is looked for together, by column.
#[derive(Default)]
pub struct Searches {
    columns: BTreeMap<usize, Together>,
}

#[derive(Default)]
struct Together {
    wanted: Vec<String>,
    finder: Option<Many>,
    /// This batch's rows that were asked about, and where each wanted text was found there.
    asked: Option<Rows>,
    found: Vec<Rows>,
}

/// Finds many texts at once.
enum Many {
    Elements(HashMap<String, usize>),
    Parts(AhoCorasick),
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
            return list.then(|| What::Element(self.wanted(column, literal)));
        }
        if *kind != DataType::Utf8View {
            return None;
        }
        match (expr, name) {
            (Expr::Like(_), _) => self.like(column, literal),
            (_, "starts_with") => Some(What::Begins(literal.to_owned())),
            (_, "ends_with") => Some(What::Ends(literal.to_owned())),
            (_, "contains") => Some(self.has(column, literal)),
            (_, "regexp_like") => Regex::new(literal).ok().map(What::Matches),
            (Expr::BinaryExpr(binary), _) => {
                let flags = match binary.op {
                    Operator::RegexMatch | Operator::RegexNotMatch => "",
                    Operator::RegexIMatch | Operator::RegexNotIMatch => "(?i)",
                    _ => return None,
                };
                Regex::new(&format!("{flags}{literal}")).ok().map(What::Matches)
            }
            _ => None,
        }
    }

    fn like(&mut self, column: usize, pattern: &str) -> Option<What> {
        let plain = |text: &str| !text.contains(['%', '_', '\\']);
        if let Some(part) = pattern.strip_prefix('%').and_then(|rest| rest.strip_suffix('%')).filter(|part| plain(part))
        {
            return Some(self.has(column, part));
        }
        match (pattern.strip_suffix('%'), pattern.strip_prefix('%')) {
            (Some(begin), _) if plain(begin) => Some(What::Begins(begin.to_owned())),
            (_, Some(end)) if plain(end) => Some(What::Ends(end.to_owned())),
            // What a backslash means in a pattern is left to Arrow.
            _ if pattern.contains('\\') => None,
            _ => {
                let regex = regex::escape(pattern).replace('%', ".*").replace('_', ".");
                Regex::new(&format!("(?s)^{regex}$")).ok().map(What::Matches)
            }
        }
    }

    fn has(&mut self, column: usize, part: &str) -> What {
        match part {
            // Every text has it.
            "" => What::Begins(String::new()),
            _ => What::Has(Box::new(Finder::new(part).into_owned()), self.wanted(column, part)),
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
        let texts = || {
            let texts = array.as_string_view_opt();
            texts.ok_or_else(|| internal_datafusion_err!("column {} is not text", search.column))
        };
        let together = self.columns.get_mut(&search.column);
        match (&search.what, together) {
            (What::Begins(begin), _) => search.keep(texts()?, left, |text| text.starts_with(begin)),
            (What::Ends(end), _) => search.keep(texts()?, left, |text| text.ends_with(end)),
            (What::Matches(regex), _) => search.keep(texts()?, left, |text| regex.is_match(text)),
            (What::Has(_, number), Some(together)) if together.wanted.len() >= MANY => {
                search.among(array, together.found(array, *number, left)?, left);
            }
            (What::Has(finder, _), _) => {
                search.keep(texts()?, left, |text| finder.find(text.as_bytes()).is_some());
            }
            (What::Element(number), Some(together)) => {
                search.among(array, together.found(array, *number, left)?, left);
            }
            (What::Element(_), None) => return Err(internal_datafusion_err!("nothing is looked for in this list")),
        }
        Ok(())
    }
}

impl Search {
    fn keep(&self, texts: &StringViewArray, left: &mut Rows, test: impl Fn(&str) -> bool) {
        left.retain(|row| texts.is_valid(row) && test(texts.value(row)) != self.negated);
    }

    fn among(&self, array: &dyn Array, found: &Rows, left: &mut Rows) {
        if !self.negated {
            left.intersect(found);
            return;
        }
        left.remove(found);
        if array.is_nullable() {
            left.retain(|row| array.is_valid(row));
        }
    }
}

impl Together {
    /// Where a wanted text is; right for these rows, and for those asked about before.
    fn found(&mut self, array: &dyn Array, number: usize, rows: &Rows) -> Result<&Rows> {
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
                none => none.insert(Many::new(&self.wanted, array.data_type())?),
            };
            finder.find(array, &fresh, &mut self.found)?;
        }
        Ok(&self.found[number])
    }
}

impl Many {
    fn new(wanted: &[String], kind: &DataType) -> Result<Self> {
        if matches!(kind, DataType::List(_)) {
            let numbered = wanted.iter().enumerate().map(|(number, text)| (text.clone(), number));
            return Ok(Many::Elements(numbered.collect()));
        }
        AhoCorasick::new(wanted).map(Many::Parts).map_err(|e| DataFusionError::External(Box::new(e)))
    }

    /// Notes for some rows what is found there.
    fn find(&self, array: &dyn Array, rows: &Rows, found: &mut [Rows]) -> Result<()> {
        match self {
            Many::Elements(numbers) => {
                let lists = array.as_list_opt::<i32>();
                let texts = lists.and_then(|lists| Some((lists, lists.values().as_string_opt::<i32>()?)));
                let Some((lists, texts)) = texts else {
                    return Err(internal_datafusion_err!("elements are looked for in what is no list of texts"));
                };
                for row in rows.iter().filter(|row| lists.is_valid(*row)) {
                    for element in lists.value_offsets()[row]..lists.value_offsets()[row + 1] {
                        let element = element as usize;
                        let number = texts.is_valid(element).then(|| numbers.get(texts.value(element))).flatten();
                        number.iter().for_each(|number| found[**number].insert(row));
                    }
                }
            }
            Many::Parts(parts) => {
                let Some(texts) = array.as_string_view_opt() else {
                    return Err(internal_datafusion_err!("parts are looked for in what is no text"));
                };
                for row in rows.iter().filter(|row| texts.is_valid(*row)) {
                    for part in parts.find_overlapping_iter(texts.value(row)) {
                        found[part.pattern().as_usize()].insert(row);
                    }
                }
            }
        }
        Ok(())
    }
}

fn text(literal: &ScalarValue) -> Option<&str> {
    literal.try_as_str().flatten()
}
