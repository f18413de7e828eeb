//! Parameters of a request's URI, decoded.

use std::borrow::Cow;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, ListBuilder, StringBuilder};
use datafusion::arrow::datatypes::DataType;
use url::form_urlencoded;
use vedette_schemas::table::list_item;

use super::Function;
use super::udf::{Arguments, TextFunction};

pub(super) fn functions() -> Vec<TextFunction> {
    vec![
        TextFunction::text(
            Function {
                name: "extract_url_parameter",
                family: "URIs",
                signature: "extract_url_parameter(uri, name) -> text",
                description: "The first value of a parameter of the URI, decoded; null if it is absent.",
                example: "extract_url_parameter('/exec?command=ls&container=my%20app', 'container')",
                result: "my app",
            },
            |[uri, name]| parameters(uri, name).next(),
        ),
        TextFunction::new::<2>(
            Function {
                name: "extract_url_parameters",
                family: "URIs",
                signature: "extract_url_parameters(uri, name) -> list of text",
                description: "All values of a parameter of the URI, decoded and in order; empty if it is absent.",
                example: "extract_url_parameters('/exec?command=ls&command=-l', 'command')",
                result: "[ls, -l]",
            },
            DataType::List(Arc::new(list_item())),
            all_parameters,
        ),
        TextFunction::text(
            Function {
                name: "exec_command",
                family: "URIs",
                signature: "exec_command(request_uri) -> text",
                description: "The command of an exec request, its words joined by spaces; null if the URI has none.",
                example: "exec_command('/api/v1/namespaces/a/pods/b/exec?command=sh&command=-c&command=id+-u')",
                result: "sh -c id -u",
            },
            |[uri]| {
                let words: Vec<_> = parameters(uri, "command").collect();
                (!words.is_empty()).then(|| Cow::Owned(words.join(" ")))
            },
        ),
    ]
}

/// The values of a parameter, in order.
fn parameters<'a>(uri: &'a str, name: &str) -> impl Iterator<Item = Cow<'a, str>> {
    let sent = uri.split('#').next().unwrap_or_default();
    let query = sent.split_once('?').map_or("", |(_, query)| query);
    form_urlencoded::parse(query.as_bytes()).filter(move |(key, _)| key == name).map(|(_, value)| value)
}

fn all_parameters(arguments: &Arguments) -> ArrayRef {
    let mut lists = ListBuilder::new(StringBuilder::new()).with_field(list_item());
    for row in arguments.rows() {
        if let Some([uri, name]) = row {
            parameters(uri, name).for_each(|value| lists.values().append_value(value));
        }
        lists.append(row.is_some());
    }
    Arc::new(lists.finish())
}

#[cfg(test)]
mod tests {
    use super::super::testing::check;

    #[test]
    fn parameters() {
        let cases = [
            ("?a=1", "1", "[1]"),
            ("/x?b=2&a=1&a=3", "1", "[1, 3]"),
            ("https://h:6443/x?a=1#a=2", "1", "[1]"),
            ("?a=x%2Fy+z%26", "x/y z&", "[x/y z&]"),
            ("?%61=1", "1", "[1]"),
            ("?a=1=2", "1=2", "[1=2]"),
            ("?a=1?a=2", "1?a=2", "[1?a=2]"),
            ("?a", "", "[]"),
            ("?a=", "", "[]"),
            ("?a=%zz%", "%zz%", "[%zz%]"),
            ("?a=%ff", "\u{fffd}", "[\u{fffd}]"),
            ("?a=é", "é", "[é]"),
            ("?ab=1", "null", "[]"),
            ("?A=1", "null", "[]"),
            ("a=1", "null", "[]"),
            ("?", "null", "[]"),
            ("", "null", "[]"),
        ];
        for (uri, first, all) in cases {
            check(&[
                (&format!("extract_url_parameter('{uri}', 'a')"), first),
                (&format!("extract_url_parameters('{uri}', 'a')"), all),
            ]);
        }
        check(&[
            ("cardinality(extract_url_parameters('?a', 'a'))", "1"),
            ("array_has(extract_url_parameters('?a=1&a=2', 'a'), '2')", "true"),
        ]);
    }

    #[test]
    fn commands() {
        check(&[
            ("exec_command('/x/exec?command=cat&command=%2Fetc%2Fshadow&container=c')", "cat /etc/shadow"),
            ("exec_command('/proxy/exec/ns/pod/c?command=id')", "id"),
            ("exec_command('/x/exec?command=')", ""),
            ("exec_command('/x/attach?container=c')", "null"),
            ("exec_command('')", "null"),
        ]);
    }
}
