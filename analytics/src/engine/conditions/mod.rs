//! The conditions of one table's rules: each distinct one is a leaf, evaluated once a batch at most.
//!
//! A rule's filter is a list of terms that must all hold: leaves, or alternatives of such lists. Terms run in three rounds.
//! The first uses leaves that cost next to nothing, by the texts of label columns or over whole columns. The second runs
//! costly leaves on the rows that a rule has left. Then the bodies of all rows that any rule still needs are looked into once,
//! and the third round asks about what was found there.

mod body;
mod labels;
mod leaf;
mod rows;
mod search;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::filter;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result};
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use datafusion::prelude::SessionContext;

use body::Bodies;
use labels::Labels;
pub use leaf::How;
use leaf::{Leaf, Origin};
pub use rows::Rows;
use search::Searches;

/// From this cost on, a leaf sees only the rows that cheaper ones left.
const SELECTIVE: u32 = 8;

/// A condition of a rule's filter.
#[derive(Clone, Debug)]
enum Term {
    Leaf(usize),
    /// One of these lists must hold.
    Any(Vec<Vec<Term>>),
}

/// When a term is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Round {
    Cheap,
    Costly,
    Body,
}

/// A rule's filter: its terms by round, in each the cheapest first.
#[derive(Clone, Debug, Default)]
pub struct Program {
    cheap: Vec<Term>,
    costly: Vec<Term>,
    body: Vec<Term>,
    /// What asks for the paths into bodies that `body` reads.
    paths: u64,
}

impl Program {
    /// Whether it asks about what is inside bodies.
    pub fn looks_into_bodies(&self) -> bool {
        !self.body.is_empty()
    }
}

/// The conditions of one table's rules.
pub struct Conditions {
    schema: SchemaRef,
    leaves: Vec<Leaf>,
    known: HashMap<String, usize>,
    labels: BTreeMap<usize, Labels>,
    searches: Searches,
    bodies: Bodies,
    /// This batch's rows of each leaf that was evaluated over all of them.
    whole: Vec<Option<Rows>>,
    /// This batch's columns of some rows only: rules that differ in a costly condition often leave it the same rows.
    parts: Parts,
}

impl Conditions {
    pub fn new(schema: SchemaRef) -> Self {
        Self {
            schema,
            leaves: Vec::new(),
            known: HashMap::new(),
            labels: BTreeMap::new(),
            searches: Searches::default(),
            bodies: Bodies::default(),
            whole: Vec::new(),
            parts: Parts::default(),
        }
    }

    /// Takes a scan's filters apart.
    pub fn add(&mut self, context: &SessionContext, filters: &[Expr]) -> Result<Program> {
        let mut terms = self.all_of(context, filters.iter().cloned().flat_map(split_conjunction_owned))?;
        terms.sort_by_key(|term| self.cost(term));
        let mut program = Program::default();
        for term in terms {
            match self.round(&term) {
                Round::Cheap => program.cheap.push(term),
                Round::Costly => program.costly.push(term),
                Round::Body => {
                    program.paths |= self.paths(&term);
                    program.body.push(term);
                }
            }
        }
        Ok(program)
    }

    fn all_of(&mut self, context: &SessionContext, terms: impl Iterator<Item = Expr>) -> Result<Vec<Term>> {
        terms.map(|term| self.term(context, term)).collect()
    }

    fn term(&mut self, context: &SessionContext, expr: Expr) -> Result<Term> {
        if !matches!(&expr, Expr::BinaryExpr(BinaryExpr { op: Operator::Or, .. })) {
            return self.leaf(context, expr).map(Term::Leaf);
        }
        let expr_of_one_leaf = expr.column_refs().len() <= 1;
        if expr_of_one_leaf {
            return self.leaf(context, expr).map(Term::Leaf);
        }
        let mut lists = Vec::new();
        let mut left = vec![expr];
        while let Some(expr) = left.pop() {
            match expr {
                Expr::BinaryExpr(BinaryExpr { left: one, op: Operator::Or, right: other }) => {
                    left.extend([*other, *one]);
                }
                list => {
                    let mut terms = self.all_of(context, split_conjunction_owned(list).into_iter())?;
                    terms.sort_by_key(|term| self.cost(term));
                    lists.push(terms);
                }
            }
        }
        Ok(Term::Any(lists))
    }

    fn leaf(&mut self, context: &SessionContext, expr: Expr) -> Result<usize> {
        let expr = unqualified(expr)?;
        let text = expr.to_string();
        if let Some(known) = self.known.get(&text) {
            return Ok(*known);
        }
        let leaf = self.compile(context, text.clone(), expr)?;
        self.leaves.push(leaf);
        let number = self.leaves.len() - 1;
        if let How::Label(column, _) = self.leaves[number].how {
            let place = self.labels.entry(column).or_default().add(number);
            self.leaves[number].how = How::Label(column, place);
        }
        self.known.insert(text, number);
        Ok(number)
    }

    fn compile(&mut self, context: &SessionContext, text: String, expr: Expr) -> Result<Leaf> {
        let full = DFSchema::try_from(self.schema.as_ref().clone())?;
        let fallible = leaf::fallible(&expr, &full);
        let mut calls = Vec::new();
        // From the outside in: what stands inside a call that is answered by its path needs no column of its own.
        let expr = expr.transform_down(|e| {
            Ok(match self.bodies.add(context, &e, |name| self.schema.index_of(name).ok())? {
                Some(call) => {
                    calls.push(call);
                    Transformed::new(Expr::Column(body::column(call)), true, TreeNodeRecursion::Jump)
                }
                None => Transformed::no(e),
            })
        })?;
        let expr = expr.data;
        let mut origins = Vec::new();
        let mut fields = Vec::new();
        for column in expr.column_refs() {
            match calls.iter().find(|call| body::column(**call) == *column) {
                Some(call) => {
                    origins.push(Origin::Call(*call));
                    fields.push(Field::new(&column.name, self.bodies.kind(*call), true));
                }
                None => {
                    let index = self.schema.index_of(&column.name)?;
                    origins.push(Origin::Column(index));
                    // Labels are asked about null too, wherever the column has any.
                    fields.push(self.schema.field(index).clone().with_nullable(true));
                }
            }
        }
        let schema = Arc::new(Schema::new(fields));
        let cost = leaf::cost(&expr);
        let physical = context.create_physical_expr(expr.clone(), &DFSchema::try_from(schema.as_ref().clone())?)?;
        let how = match origins[..] {
            _ if !calls.is_empty() => How::Body,
            _ if fallible => How::Survivors,
            [Origin::Column(column)] if matches!(self.schema.field(column).data_type(), DataType::Dictionary(..)) => {
                How::Label(column, (0, 0))
            }
            _ if cost >= SELECTIVE => How::Survivors,
            _ => How::Whole,
        };
        let search = match how {
            How::Label(..) | How::Survivors => self.searches.add(&expr, &self.schema),
            How::Whole | How::Body => None,
        };
        Ok(Leaf { text, how, cost, origins, fallible, schema, expr: physical, search })
    }

    fn cost(&self, term: &Term) -> u32 {
        match term {
            Term::Leaf(leaf) if matches!(self.leaves[*leaf].how, How::Label(..)) => 0,
            Term::Leaf(leaf) => self.leaves[*leaf].cost,
            Term::Any(lists) => lists.iter().flatten().map(|term| self.cost(term)).sum(),
        }
    }

    fn round(&self, term: &Term) -> Round {
        match term {
            Term::Leaf(leaf) => match self.leaves[*leaf].how {
                How::Label(..) | How::Whole => Round::Cheap,
                How::Survivors => Round::Costly,
                How::Body => Round::Body,
            },
            Term::Any(lists) => lists.iter().flatten().map(|term| self.round(term)).max().unwrap_or(Round::Cheap),
        }
    }

    /// What asks for the paths that a term reads.
    fn paths(&self, term: &Term) -> u64 {
        match term {
            Term::Leaf(leaf) => self.leaves[*leaf].calls().fold(0, |bits, call| bits | self.bodies.bit(call)),
            Term::Any(lists) => lists.iter().flatten().fold(0, |bits, term| bits | self.paths(term)),
        }
    }

    /// Each leaf of a program in the order in which they run: its text and how it is evaluated.
    pub fn describe(&self, program: &Program) -> Vec<(&str, How)> {
        fn leaves(terms: &[Term], out: &mut Vec<usize>) {
            for term in terms {
                match term {
                    Term::Leaf(leaf) => out.push(*leaf),
                    Term::Any(lists) => lists.iter().for_each(|list| leaves(list, out)),
                }
            }
        }
        let mut order = Vec::new();
        [&program.cheap, &program.costly, &program.body].into_iter().for_each(|terms| leaves(terms, &mut order));
        order.into_iter().map(|leaf| (self.leaves[leaf].text.as_str(), self.leaves[leaf].how)).collect()
    }

    /// A program's costly conditions, if no cheap one but perhaps a stage stands before them: they are asked of every row.
    pub fn unguarded(&self, program: &Program) -> Vec<&str> {
        let stage = self.schema.index_of("stage").ok();
        let narrows = |term: &Term| match term {
            Term::Leaf(leaf) => !matches!(self.leaves[*leaf].how, How::Label(column, _) if Some(column) == stage),
            Term::Any(_) => true,
        };
        if program.cheap.iter().any(narrows) {
            return Vec::new();
        }
        let costly = |(text, how)| matches!(how, How::Survivors | How::Body).then_some(text);
        self.describe(program).into_iter().filter_map(costly).collect()
    }

    /// Forgets the last batch.
    pub fn begin(&mut self) {
        self.whole.clear();
        self.whole.resize(self.leaves.len(), None);
        self.labels.values_mut().for_each(Labels::begin);
        self.searches.begin();
        self.bodies.begin();
        self.parts.clear();
    }

    /// The rows that pass the first two rounds. In these the third asks for what the program reads of bodies.
    pub fn before_bodies(&mut self, batch: &RecordBatch, program: &Program) -> Result<Rows> {
        let mut left = Rows::all(batch.num_rows());
        self.narrow(batch, &program.cheap, &mut left)?;
        self.narrow(batch, &program.costly, &mut left)?;
        if program.looks_into_bodies() && !left.is_empty() {
            self.bodies.ask(&left, batch.num_rows(), program.paths);
        }
        Ok(left)
    }

    /// Looks into bodies for what was asked for there, for the third round.
    pub fn look_into_bodies(&mut self, batch: &RecordBatch) -> Result<()> {
        self.bodies.look(batch)
    }

    /// The third round: of these rows, which `look_into_bodies` has looked into, those that pass.
    pub fn in_bodies(&mut self, batch: &RecordBatch, program: &Program, left: &mut Rows) -> Result<()> {
        self.narrow(batch, &program.body, left)
    }

    /// Leaves the rows that pass every term.
    fn narrow(&mut self, batch: &RecordBatch, terms: &[Term], left: &mut Rows) -> Result<()> {
        for term in terms {
            if left.is_empty() {
                break;
            }
            match term {
                Term::Leaf(leaf) => self.narrow_by(batch, *leaf, left)?,
                Term::Any(lists) => {
                    let mut passed = Rows::none(batch.num_rows());
                    let mut open = left.clone();
                    for list in lists {
                        let mut rows = open.clone();
                        self.narrow(batch, list, &mut rows)?;
                        open.remove(&rows);
                        passed.unite(&rows);
                    }
                    *left = passed;
                }
            }
        }
        Ok(())
    }

    fn narrow_by(&mut self, batch: &RecordBatch, number: usize, left: &mut Rows) -> Result<()> {
        let leaf = &self.leaves[number];
        match leaf.how {
            How::Label(column, place) => {
                let Some(labels) = self.labels.get_mut(&column) else { return Ok(()) };
                left.intersect(labels.rows(&self.leaves, batch, column, place)?);
            }
            How::Survivors => match &leaf.search {
                Some(search) => self.searches.narrow(batch, search, left)?,
                None => *left = leaf.survivors(batch, left, &mut self.parts)?,
            },
            How::Body if leaf.fallible => *left = leaf.in_bodies(batch, &mut self.bodies, left)?,
            How::Whole | How::Body => {
                if self.whole[number].is_none() {
                    self.whole[number] = Some(match leaf.how {
                        How::Body => {
                            let looked = self.bodies.looked()?.clone();
                            leaf.in_bodies(batch, &mut self.bodies, &looked)?
                        }
                        _ => leaf.over(leaf.columns(batch), batch.num_rows())?,
                    });
                }
                self.whole[number].iter().for_each(|rows| left.intersect(rows));
            }
        }
        Ok(())
    }
}

/// Columns of some of a batch's rows.
#[derive(Default)]
struct Parts(Vec<(usize, Rows, ArrayRef)>);

impl Parts {
    /// The most that are kept: what a thousand rules leave apart is not worth looking through.
    const MOST: usize = 64;

    fn part(&mut self, batch: &RecordBatch, column: usize, rows: &Rows) -> Result<ArrayRef> {
        if let Some((_, _, part)) = self.0.iter().find(|part| part.0 == column && part.1 == *rows) {
            return Ok(part.clone());
        }
        let part = filter(batch.column(column), &rows.filter())?;
        if self.0.len() < Self::MOST {
            self.0.push((column, rows.clone(), part.clone()));
        }
        Ok(part)
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

impl Leaf {
    /// The calls that it reads.
    fn calls(&self) -> impl Iterator<Item = usize> {
        self.origins.iter().filter_map(|origin| match origin {
            Origin::Column(_) => None,
            Origin::Call(call) => Some(*call),
        })
    }

    /// The columns it reads; those from bodies are left out.
    fn columns(&self, batch: &RecordBatch) -> Vec<ArrayRef> {
        let columns = self.origins.iter().filter_map(|origin| match origin {
            Origin::Column(column) => Some(batch.column(*column).clone()),
            Origin::Call(_) => None,
        });
        columns.collect()
    }

    /// Of some rows, those that pass.
    fn survivors(&self, batch: &RecordBatch, left: &Rows, parts: &mut Parts) -> Result<Rows> {
        let count = left.count();
        if count == batch.num_rows() {
            return self.over(self.columns(batch), count);
        }
        let columns = self.origins.iter().filter_map(|origin| match origin {
            Origin::Column(column) => Some(parts.part(batch, *column, left)),
            Origin::Call(_) => None,
        });
        Ok(left.keep(&self.over(columns.collect::<Result<_>>()?, count)?))
    }

    /// Of some rows that were looked into, those that pass.
    fn in_bodies(&self, batch: &RecordBatch, bodies: &mut Bodies, left: &Rows) -> Result<Rows> {
        let looked = bodies.looked()?;
        // Every row that was looked into: the calls' answers are there as they are needed.
        let places = (left != looked).then(|| left.places(looked).filter());
        let mask = left.filter();
        let mut columns = Vec::with_capacity(self.origins.len());
        for origin in &self.origins {
            columns.push(match (origin, &places) {
                (Origin::Column(column), _) => filter(batch.column(*column), &mask)?,
                (Origin::Call(call), Some(places)) => filter(&bodies.answers(*call)?, places)?,
                (Origin::Call(call), None) => bodies.answers(*call)?,
            });
        }
        Ok(left.keep(&self.over(columns, left.count())?))
    }
}

/// Scans filter one table, so that the qualifier says nothing; without it, two rules' equal conditions are one leaf.
fn unqualified(expr: Expr) -> Result<Expr> {
    let expr = expr.transform(|e| {
        Ok(match e {
            Expr::Column(column) => Transformed::yes(Expr::Column(Column::new_unqualified(column.name))),
            other => Transformed::no(other),
        })
    })?;
    Ok(expr.data)
}
