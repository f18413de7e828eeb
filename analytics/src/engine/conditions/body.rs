//! Values inside JSON bodies: every path that rules ask for, found in one pass over a body.
//!
//! A call such as `json_get_str(request_object, 'spec', 'type')` becomes the same call on a column of its own that holds the
//! text of the value at that path. The walk is jiter's, as the functions' own is, so that both find the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringViewBuilder};
use arrow::record_batch::RecordBatch;
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::Expr;
use jiter::{Jiter, JiterResult, Peek};

use super::rows::Rows;

/// Functions of a JSON text and a path, which on the value's own text alone answer the same.
const AT_A_PATH: [&str; 7] =
    ["json_get_str", "json_get_int", "json_get_float", "json_get_bool", "json_get_json", "json_as_text", "json_length"];

/// A step of a path: a key that is no number, or a place in an array. A key that spells a number may mean either, and a place
/// counted from the end needs the whole array; the functions see to those themselves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    Key(String),
    Index(usize),
}

/// The paths into one column's bodies, as a tree.
#[derive(Default)]
struct Node {
    path: Option<usize>,
    steps: Vec<(Step, Node)>,
}

/// All paths into the bodies of one table's columns.
#[derive(Default)]
pub struct Bodies {
    /// For each column, its tree and how many values it finds.
    trees: BTreeMap<usize, Node>,
    paths: Vec<(usize, Vec<Step>)>,
    /// This batch's: the rows that were looked into, and each path's values there.
    looked: Option<Rows>,
    values: Vec<ArrayRef>,
}

/// The column and the path of a call that can be answered from the path's value alone.
fn path_of(expr: &Expr) -> Option<(&str, Vec<Step>)> {
    let Expr::ScalarFunction(call) = expr else { return None };
    let (Expr::Column(column), path @ [_, ..]) = call.args.split_first()? else { return None };
    if !AT_A_PATH.contains(&call.name()) {
        return None;
    }
    let steps = path.iter().map(|step| match step {
        Expr::Literal(ScalarValue::Int64(Some(index)), _) => usize::try_from(*index).ok().map(Step::Index),
        Expr::Literal(value, _) => {
            let key = value.try_as_str().flatten()?;
            key.parse::<isize>().is_err().then(|| Step::Key(key.to_owned()))
        }
        _ => None,
    });
    Some((&column.name, steps.collect::<Option<_>>()?))
}

impl Bodies {
    /// The number of the path that a call asks for, if it is one that is found in the common pass, and the name of its
    /// column. `column` finds a column's place by its name.
    pub fn add(&mut self, expr: &Expr, column: impl Fn(&str) -> Option<usize>) -> Option<usize> {
        let (name, steps) = path_of(expr)?;
        let column = column(name)?;
        if let Some(known) = self.paths.iter().position(|path| path.0 == column && path.1 == steps) {
            return Some(known);
        }
        let mut node = self.trees.entry(column).or_default();
        for step in &steps {
            let place = node.steps.iter().position(|(known, _)| known == step).unwrap_or_else(|| {
                node.steps.push((step.clone(), Node::default()));
                node.steps.len() - 1
            });
            node = &mut node.steps[place].1;
        }
        node.path = Some(self.paths.len());
        self.paths.push((column, steps));
        Some(self.paths.len() - 1)
    }

    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// How many paths are found in the pass.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Forgets the last batch.
    pub fn begin(&mut self) {
        self.looked = None;
        self.values.clear();
    }

    /// The rows looked into.
    pub fn looked(&self) -> Option<&Rows> {
        self.looked.as_ref()
    }

    /// A path's values, one for each row looked into.
    pub fn values(&self, path: usize) -> ArrayRef {
        self.values[path].clone()
    }

    /// Looks into the bodies of some rows.
    pub fn look(&mut self, batch: &RecordBatch, rows: Rows) -> Result<()> {
        let count = rows.count();
        let mut builders: Vec<_> = self.paths.iter().map(|_| StringViewBuilder::with_capacity(count)).collect();
        let mut found: Vec<Option<(usize, usize)>> = vec![None; self.paths.len()];
        for (column, tree) in &self.trees {
            let Some(bodies) = batch.column(*column).as_string_view_opt() else {
                return internal_err!("column {column} is not a JSON column");
            };
            let mine: Vec<usize> = (0..self.paths.len()).filter(|path| self.paths[*path].0 == *column).collect();
            for row in rows.iter() {
                let body = if bodies.is_valid(row) { bodies.value(row) } else { "" };
                if !body.is_empty() {
                    find(body, tree, &mut found);
                }
                for path in &mine {
                    builders[*path].append_option(found[*path].take().and_then(|(from, to)| body.get(from..to)));
                }
            }
        }
        self.values = builders.into_iter().map(|mut builder| Arc::new(builder.finish()) as ArrayRef).collect();
        self.looked = Some(rows);
        Ok(())
    }
}

/// Where the values of a tree's paths stand in a body. What comes after an error is not found.
fn find(body: &str, tree: &Node, found: &mut [Option<(usize, usize)>]) {
    let mut jiter = Jiter::new(body.as_bytes());
    let _ = jiter.peek().and_then(|peek| walk(&mut jiter, peek, tree, found, true));
}

fn walk(
    jiter: &mut Jiter,
    peek: Peek,
    node: &Node,
    found: &mut [Option<(usize, usize)>],
    outermost: bool,
) -> JiterResult<()> {
    let start = jiter.current_index();
    match peek {
        Peek::Object if node.steps.iter().any(|(step, _)| matches!(step, Step::Key(_))) => {
            let mut left = node.steps.len();
            let mut done = vec![false; left];
            let mut key = jiter.known_object()?;
            while let Some(name) = key {
                // The first of several equal keys counts.
                let wanted =
                    |(step, done): (&(Step, Node), &bool)| !done && matches!(&step.0, Step::Key(k) if k == name);
                match node.steps.iter().zip(&done).position(wanted) {
                    Some(place) => {
                        done[place] = true;
                        let peek = jiter.peek()?;
                        walk(jiter, peek, &node.steps[place].1, found, false)?;
                        left -= 1;
                        if left == 0 && outermost && node.path.is_none() {
                            return Ok(());
                        }
                    }
                    None => jiter.next_skip()?,
                }
                key = jiter.next_key()?;
            }
        }
        Peek::Array if node.steps.iter().any(|(step, _)| matches!(step, Step::Index(_))) => {
            let mut item = jiter.known_array()?;
            let mut index = 0;
            while let Some(peek) = item {
                match node.steps.iter().find(|(step, _)| *step == Step::Index(index)) {
                    Some((_, node)) => walk(jiter, peek, node, found, false)?,
                    None => jiter.known_skip(peek)?,
                }
                index += 1;
                item = jiter.array_step()?;
            }
        }
        _ => jiter.known_skip(peek)?,
    }
    if let Some(path) = node.path {
        found[path] = Some((start, jiter.current_index()));
    }
    Ok(())
}
