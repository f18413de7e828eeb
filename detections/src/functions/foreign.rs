//! Functions that people know from elsewhere and that are called otherwise here: who uses one is told so.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

/// Each with the one to use.
pub const NAMES: [(&str, &str); 17] = [
    ("cidr_match", "cidr_contains"),
    ("cidrmatch", "cidr_contains"),
    ("ip_in_cidr", "is_ip_address_in_range"),
    ("ip_in_range", "is_ip_address_in_range"),
    ("isipaddressinrange", "is_ip_address_in_range"),
    ("is_ip_in_range", "is_ip_address_in_range"),
    ("ipv4_is_in_range", "is_ip_address_in_range"),
    ("json_extract", "json_get_str"),
    ("json_extract_scalar", "json_get_str"),
    ("json_extract_string", "json_get_str"),
    ("jsonextractstring", "json_get_str"),
    ("get_json_object", "json_get_str"),
    ("json_value", "json_get_str"),
    ("json_query", "json_get_json"),
    ("jsonhas", "json_contains"),
    ("json_exists", "json_contains"),
    ("json_array_length", "json_length"),
];

/// A name that is known from elsewhere. It can't be called.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Foreign {
    name: &'static str,
    instead: &'static str,
    signature: Signature,
}

impl Foreign {
    pub fn new((name, instead): (&'static str, &'static str)) -> Self {
        Self { name, instead, signature: Signature::variadic_any(Volatility::Immutable) }
    }

    fn refused<T>(&self) -> Result<T> {
        plan_err!("there is no function {}; {} is what it is called here", self.name, self.instead)
    }
}

impl ScalarUDFImpl for Foreign {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        self.refused()
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.refused()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::functions::{catalogue, testing};

    #[test]
    fn names_from_elsewhere_lead_to_our_own() {
        for (name, instead) in NAMES {
            assert!(catalogue().iter().any(|function| function.name == instead), "{instead}");
            testing::refused(&format!("{name}('a', 'b')"), &[name, instead]);
        }
    }
}
