//! The SQL functions of rules and queries: their registration, and the catalogue that describes each with an example.

mod borrowed;
mod foreign;
mod image;
mod list;
mod matching;
pub(crate) mod network;
#[cfg(test)]
mod testing;
pub(crate) mod text;
mod udf;
mod uri;
mod user;

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use datafusion::logical_expr::ScalarUDF;
use datafusion::prelude::SessionContext;

use crate::lists::Lists;
use udf::TextFunction;
pub(crate) use user::KINDS as USER_KINDS;

/// What a function is for.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    pub name: &'static str,
    /// The heading that it stands under.
    pub family: &'static str,
    /// Its arguments and what it returns.
    pub signature: &'static str,
    /// One sentence.
    pub description: &'static str,
    /// An SQL expression that uses it.
    pub example: &'static str,
    /// What the example gives, as text.
    pub result: &'static str,
}

/// Every function that rules and queries are told of, by family.
pub fn catalogue() -> Vec<Function> {
    let own = own(&Arc::default());
    own.iter().map(TextFunction::described).chain(borrowed::FUNCTIONS.iter().copied()).collect()
}

/// Whether a function is one of ours: given text it always answers, once it is planned.
pub fn is_ours(name: &str) -> bool {
    static NAMES: LazyLock<HashSet<&str>> =
        LazyLock::new(|| own(&Arc::default()).iter().map(|function| function.described().name).collect());
    NAMES.contains(name)
}

/// Adds the functions to a session. `in_list` looks into these lists.
pub(crate) fn register(context: &SessionContext, lists: &Arc<Lists>) {
    for foreign in foreign::NAMES {
        context.register_udf(ScalarUDF::from(foreign::Foreign::new(foreign)));
    }
    for function in own(lists) {
        context.register_udf(ScalarUDF::from(function));
    }
}

/// What a function is called here that is known from elsewhere by this name.
pub fn instead(name: &str) -> Option<&'static str> {
    foreign::NAMES.iter().find(|(foreign, _)| *foreign == name).map(|(_, instead)| *instead)
}

/// The functions that are defined here.
fn own(lists: &Arc<Lists>) -> Vec<TextFunction> {
    let families = [
        network::functions(),
        list::functions(lists),
        text::functions(),
        user::functions(),
        image::functions(),
        uri::functions(),
    ];
    families.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_example_gives_what_the_catalogue_says() {
        for function in catalogue() {
            let given = testing::evaluate(function.example);
            assert_eq!(given.as_deref(), Ok(function.result), "{}", function.example);
        }
    }

    #[test]
    fn every_entry_is_whole_and_names_are_unique() {
        let mut names = BTreeSet::new();
        for function in catalogue() {
            assert!(names.insert(function.name), "{} is there twice", function.name);
            assert!(function.example.contains(function.name), "{}", function.name);
            assert!(function.signature.contains(function.name), "{}", function.name);
            assert!(function.signature.contains("->"), "{}", function.name);
            assert!(function.description.ends_with('.'), "{}", function.name);
        }
    }
}
