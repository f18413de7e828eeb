//! A function of text as DataFusion runs it: any kind of text column in, null for null.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringViewArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::Function;

/// Computes a call's column.
type Evaluate = Arc<dyn Fn(&Arguments) -> ArrayRef + Send + Sync>;
/// Looks at the arguments that are literals, in their places, when a query is planned.
type Check = Arc<dyn Fn(&[Option<&str>]) -> Result<(), String> + Send + Sync>;

/// A function whose arguments are all text.
#[derive(Clone)]
pub struct TextFunction {
    described: Function,
    signature: Signature,
    returns: DataType,
    evaluate: Evaluate,
    check: Option<Check>,
}

impl TextFunction {
    /// A function of `N` texts.
    pub fn new<const N: usize>(
        described: Function,
        returns: DataType,
        evaluate: impl Fn(&Arguments) -> ArrayRef + Send + Sync + 'static,
    ) -> Self {
        let signature = Signature::any(N, Volatility::Immutable);
        Self { described, signature, returns, evaluate: Arc::new(evaluate), check: None }
    }

    /// Text, or null, of `N` texts.
    pub fn text<const N: usize>(
        described: Function,
        each: impl for<'a> Fn([&'a str; N]) -> Option<Cow<'a, str>> + Send + Sync + 'static,
    ) -> Self {
        Self::new::<N>(described, DataType::Utf8View, move |arguments| {
            Arc::new(arguments.rows().map(|row| row.and_then(&each)).collect::<StringViewArray>())
        })
    }

    /// Whether something is true of `N` texts.
    pub fn predicate<const N: usize>(
        described: Function,
        each: impl Fn([&str; N]) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self::new::<N>(described, DataType::Boolean, move |arguments| {
            Arc::new(arguments.rows().map(|row| row.map(&each)).collect::<BooleanArray>())
        })
    }

    /// With a check of the literals among its arguments.
    pub fn checked(self, check: impl Fn(&[Option<&str>]) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self { check: Some(Arc::new(check)), ..self }
    }

    pub fn described(&self) -> Function {
        self.described
    }
}

impl ScalarUDFImpl for TextFunction {
    fn name(&self) -> &str {
        self.described.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs) -> Result<FieldRef> {
        if let Some(other) = arguments.arg_fields.iter().find(|field| !is_text(field.data_type())) {
            return plan_err!("{}() takes text, not {}", self.name(), other.data_type());
        }
        if let Some(check) = &self.check {
            let literals: Vec<_> = arguments.scalar_arguments.iter().map(|value| literal((*value)?)).collect();
            if let Err(reason) = check(&literals) {
                return plan_err!("{}(): {reason}", self.name());
            }
        }
        Ok(Arc::new(Field::new(self.name(), self.returns.clone(), true)))
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let one_answer = call.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let rows = if one_answer { 1 } else { call.number_rows };
        let columns = call.args.into_iter().map(Texts::read).collect::<Result<_>>()?;
        let answers = (self.evaluate)(&Arguments { columns, rows });
        Ok(if one_answer {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&answers, 0)?)
        } else {
            ColumnarValue::Array(answers)
        })
    }
}

// Two sessions may have different lists: a function is only equal to itself and its clones.
impl PartialEq for TextFunction {
    fn eq(&self, other: &Self) -> bool {
        self.described.name == other.described.name && Arc::ptr_eq(&self.evaluate, &other.evaluate)
    }
}

impl Eq for TextFunction {}

impl Hash for TextFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.described.name.hash(state);
    }
}

impl fmt::Debug for TextFunction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.described.name)
    }
}

/// The arguments of a call, row by row.
pub struct Arguments {
    columns: Vec<Texts>,
    rows: usize,
}

impl Arguments {
    /// Each row's arguments; none where one of them is null.
    pub fn rows<const N: usize>(&self) -> impl Iterator<Item = Option<[&str; N]>> {
        (0..self.rows).map(|row| {
            let mut texts = [""; N];
            for (text, column) in texts.iter_mut().zip(&self.columns) {
                *text = column.at(row)?;
            }
            Some(texts)
        })
    }
}

/// One argument: the same for all rows, or a column.
enum Texts {
    Literal(Option<String>),
    Column(StringViewArray),
}

impl Texts {
    fn read(value: ColumnarValue) -> Result<Self> {
        Ok(match value {
            ColumnarValue::Scalar(value) => Self::Literal(literal(&value).map(str::to_owned)),
            ColumnarValue::Array(column) => Self::Column(cast(&column, &DataType::Utf8View)?.as_string_view().clone()),
        })
    }

    fn at(&self, row: usize) -> Option<&str> {
        match self {
            Self::Literal(text) => text.as_deref(),
            Self::Column(texts) => texts.is_valid(row).then(|| texts.value(row)),
        }
    }
}

fn literal(value: &ScalarValue) -> Option<&str> {
    value.try_as_str().flatten()
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::StringArray;
    use datafusion::arrow::record_batch::RecordBatch;
    use datafusion::datasource::MemTable;
    use datafusion::logical_expr::TypeSignature;

    use super::super::testing::{self, check, refused};
    use super::*;

    /// The answers of an expression over a column `a` of each kind of text.
    #[track_caller]
    fn check_column(texts: &[Option<&str>], expression: &str, expected: &[&str]) {
        let dictionary = |values| DataType::Dictionary(Box::new(DataType::Int32), Box::new(values));
        let kinds = [DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View];
        for kind in kinds.into_iter().chain([dictionary(DataType::Utf8), dictionary(DataType::LargeUtf8)]) {
            let column = cast(&StringArray::from(texts.to_vec()), &kind).unwrap();
            let batch = RecordBatch::try_from_iter_with_nullable([("a", column, true)]).unwrap();
            let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap();
            let context = testing::session();
            context.register_table("t", Arc::new(table)).unwrap();
            let given = testing::column(&context, &format!("SELECT {expression} FROM t"));
            assert_eq!(given.unwrap(), expected, "{kind}");
        }
    }

    #[test]
    fn columns_of_every_kind_of_text_do() {
        let addresses = [Some("10.0.0.1"), None, Some("8.8.8.8"), Some("")];
        check_column(&addresses, "is_private_ip(a)", &["true", "null", "false", "false"]);
        check_column(&addresses, "is_ip_address_in_range(a, '8.0.0.0/8')", &["false", "null", "true", "false"]);
        check_column(&addresses, "is_ip_address_in_range(a, a)", &["true", "null", "true", "false"]);
        check_column(&addresses, "is_ip_address_in_range('8.8.8.8', a)", &["false", "null", "true", "false"]);
        check_column(&addresses, "is_ip_address_in_range(a, NULL)", &["null"; 4]);
        check_column(&addresses, "is_private_ip('10.0.0.1')", &["true"; 4]);
        check_column(&[Some("nginx:1"), None], "image_tag(a)", &["1", "null"]);
        check_column(&[Some("?a=1&a=2"), None], "extract_url_parameters(a, 'a')", &["[1, 2]", "null"]);
        check_column(&[], "is_private_ip(a)", &[]);
    }

    #[test]
    fn null_gives_null() {
        for function in super::super::own(&Arc::default()) {
            let TypeSignature::Any(arguments) = function.signature.type_signature else { unreachable!() };
            let name = function.described.name;
            // in_list refuses a list without a name; its own tests have its nulls.
            if name != "in_list" {
                check(&[(&format!("{name}({})", vec!["NULL"; arguments].join(", ")), "null")]);
            }
        }
    }

    #[test]
    fn what_is_not_text_is_refused_by_name() {
        refused("is_private_ip(1)", &["is_private_ip() takes text, not Int64"]);
        refused("is_private_ip()", &["is_private_ip"]);
        refused("glob_match('a')", &["glob_match"]);
    }
}
