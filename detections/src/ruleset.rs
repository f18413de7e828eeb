//! The rules that run together, and the lists that they look into.

use std::sync::Arc;

use crate::lists::Lists;
use crate::rule::Rule;

/// Rules with their lists: what is live at one time.
#[derive(Clone, Debug, Default)]
pub struct Ruleset {
    pub rules: Vec<Rule>,
    pub lists: Arc<Lists>,
}
