//! The tables in other notations than Arrow's: ClickHouse DDL and the reference page. Both are committed as files, and
//! tests hold the files to what is rendered here.

pub mod clickhouse;
pub mod reference;

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    /// Holds a committed file, named from the crate's folder, to what the code renders. `VEDETTE_BLESS=1` rewrites it.
    pub fn check_file(name: &str, rendered: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        if std::env::var_os("VEDETTE_BLESS").is_some() {
            std::fs::write(&path, rendered).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == rendered, "{name} is not what the code renders: run the tests with VEDETTE_BLESS=1");
    }
}
