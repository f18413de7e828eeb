//! `vedette functions`: the SQL functions of rules and queries, each with an example.

use std::fmt::Write;

use clap::Args;
use vedette_detections::did_you_mean;
use vedette_detections::functions::{Function, catalogue, instead};

use super::{ExitReason, print_all};

const AFTER: &str = "Exit codes: 0 success, 1 failure, 2 there is no function of that name.";

#[derive(Args)]
#[command(after_help = AFTER)]
pub struct Functions {
    /// Only this function
    // The operators among them begin with a hyphen.
    #[arg(value_name = "NAME", allow_hyphen_values = true)]
    name: Option<String>,
}

impl Functions {
    pub fn run(self) -> anyhow::Result<()> {
        let mut functions = catalogue();
        if let Some(name) = self.name {
            let wanted = name.to_lowercase();
            let near = match instead(&wanted) {
                Some(instead) => format!("; {instead} is what it is called here"),
                None => did_you_mean(&wanted, functions.iter().map(|function| function.name)),
            };
            functions.retain(|function| function.name == wanted);
            if functions.is_empty() {
                let unknown = format!("there is no function {name:?}{near}");
                return Err(anyhow::Error::new(ExitReason::Usage).context(unknown));
            }
        }
        print_all(&told(&functions))
    }
}

/// Functions in words, under the headings of their families.
fn told(functions: &[Function]) -> String {
    let mut text = String::new();
    for family in functions.chunk_by(|a, b| a.family == b.family) {
        let blank = if text.is_empty() { "" } else { "\n" };
        let _ = writeln!(text, "{blank}{}", family[0].family);
        for function in family {
            let _ = writeln!(text, "  {}", function.signature);
            let _ = writeln!(text, "      {}", function.description);
            let _ = writeln!(text, "      {} -> {}", function.example, function.result);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_has_one_heading() {
        let text = told(&catalogue());
        let headings: Vec<_> = text.lines().filter(|line| !line.is_empty() && !line.starts_with(' ')).collect();
        assert_eq!(headings, ["Network", "Lists", "Text", "Users", "Images", "URIs", "JSON", "DataFusion"]);
    }
}
