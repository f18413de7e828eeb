//! Looking into the named lists.

use std::sync::Arc;

use super::Function;
use super::matching::{Pattern, matching};
use super::udf::TextFunction;
use crate::lists::{List, Lists};

pub(super) fn functions(lists: &Arc<Lists>) -> Vec<TextFunction> {
    let (lists, known) = (lists.clone(), lists.clone());
    let function = matching(
        Function {
            name: "in_list",
            family: "Lists",
            signature: "in_list(list, value) -> boolean",
            description: "Whether the list of that name has the value: as it is, in one of its networks, or by one of its globs.",
            example: "in_list('trusted_sources', '10.1.2.3')",
            result: "true",
        },
        Pattern::First,
        move |name| lists.get(name),
        |list: &Arc<List>, value| list.contains(value),
    );
    let function = function.checked(move |literals| match literals {
        [Some(name), _] => known.get(name).map(drop),
        _ => Err("the list's name must be a literal".to_owned()),
    });
    vec![function]
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, refused};

    #[test]
    fn values_in_lists() {
        check(&[
            ("in_list('trusted_sources', '10.1.2.3')", "true"),
            ("in_list('trusted_sources', '11.1.2.3')", "false"),
            ("in_list('trusted_sources', 'ci.example.com')", "true"),
            ("in_list('trusted_sources', NULL)", "null"),
            ("in_list('admins', 'olga')", "true"),
            ("count(*) FROM (VALUES ('olga'), ('eve'), (NULL)) WHERE in_list('admins', column1)", "1"),
        ]);
    }

    #[test]
    fn a_list_is_known_when_a_query_is_planned() {
        refused(
            "in_list('trusted_source', 'a')",
            &["in_list(): no list \"trusted_source\"", "did you mean trusted_sources?"],
        );
        refused("in_list('zzz', 'a')", &["no list \"zzz\"; there are admins, trusted_sources"]);
        refused("in_list(column1, 'a') FROM (VALUES ('admins'))", &["in_list(): the list's name must be a literal"]);
        refused("in_list('ad' || 'mins', 'a')", &["literal"]);
        refused("in_list(NULL, 'a')", &["literal"]);
    }
}
