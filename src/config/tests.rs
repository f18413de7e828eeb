//! Configurations that load, and those that don't with what they say.

use super::*;

fn load(file: &str, environment: &[(&str, &str)], flags: Vec<Flag>) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vedette.toml");
    std::fs::write(&path, file).unwrap();
    let environment: Vec<_> = environment.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    Config::load(Some(&path), environment.into_iter(), flags)
}

/// Asserts that the configuration is refused with a message that has each of the words.
fn refused(file: &str, environment: &[(&str, &str)], words: &[&str]) {
    let message = load(file, environment, Vec::new()).unwrap_err().to_string();
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

#[test]
fn an_empty_file_is_the_default() {
    let config = load("", &[], Vec::new()).unwrap();
    assert_eq!(config.data, PathBuf::from("data"));
    assert_eq!(config.journal.kind, JournalKind::Embedded);
    assert!(config.detections.builtin);
}

#[test]
fn flags_stand_over_variables_and_variables_over_the_file() {
    let file = "data = 'file'\n[log]\nlevel = 'error'\nformat = 'json'";
    let variables = [("VEDETTE_DATA", "variable"), ("VEDETTE_LOG__LEVEL", "debug")];
    let flag = Flag { name: "--data", path: &["data"], value: Value::String("flag".into()) };
    assert_eq!(load(file, &variables, Vec::new()).unwrap().data, PathBuf::from("variable"));
    let config = load(file, &variables, vec![flag]).unwrap();
    assert_eq!(config.data, PathBuf::from("flag"));
    assert_eq!(config.log.level, "debug");
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn variables_are_typed_as_the_key_needs() {
    let variables = [
        ("VEDETTE_DETECTIONS__BUILTIN", "false"),
        ("VEDETTE_DETECTIONS__PATHS", "['a', 'b']"),
        ("VEDETTE_DATA", "2026"),
    ];
    let config = load("", &variables, Vec::new()).unwrap();
    assert!(!config.detections.builtin);
    assert_eq!(config.detections.paths.len(), 2);
    assert_eq!(config.data, PathBuf::from("2026"));
}

#[test]
fn what_can_not_be_used_is_named() {
    refused("jornal = 1", &[], &["jornal", "vedette.toml", "line 1"]);
    refused("[journal]\nknd = 'kafka'", &[], &["knd", "line 2"]);
    refused("[store]\nkind = 'mysql'", &[], &["mysql", "lake"]);
    refused("[log", &[], &["line 1"]);
    refused("", &[("VEDETTE_LOG__LVL", "info")], &["VEDETTE_LOG__LVL", "lvl"]);
    refused("", &[("VEDETTE_JOURNAL__KIND", "rabbit")], &["VEDETTE_JOURNAL__KIND", "rabbit"]);
    refused("", &[("VEDETTE_DATAA", "x")], &["VEDETTE_DATAA", "dataa"]);
    refused("", &[("VEDETTE_DETECTIONS__BUILTIN", "perhaps")], &["VEDETTE_DETECTIONS__BUILTIN", "perhaps"]);
}

#[test]
fn the_data_folder_holds_what_is_not_told_to_live_elsewhere() {
    let config = load("data = '/d'\n[store.lake]\nurl = 's3://bucket/lake'", &[], Vec::new()).unwrap();
    assert_eq!(config.journal.embedded.path, PathBuf::from("/d/journal"));
    assert_eq!(config.store.lake.url, "s3://bucket/lake");
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Some(Path::new("/nowhere.toml")), std::iter::empty(), Vec::new()).unwrap_err();
    assert!(error.to_string().contains("/nowhere.toml"), "{error}");
}

#[test]
fn variables_that_are_not_configuration_are_left_alone() {
    let variables = [
        ("VEDETTE_CONFIG", "x"),
        ("VEDETTE_REQUIRE_SERVICES", "1"),
        ("VEDETTE_SERVICE_HOST", "10.0.0.1"),
        ("VEDETTE_INGEST_SERVICE_PORT_HTTP", "80"),
        ("VEDETTE_PORT", "tcp://10.0.0.1:80"),
        ("VEDETTE_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("HOME", "/root"),
    ];
    load("", &variables, Vec::new()).unwrap();
}

#[test]
fn secrets_are_masked_and_the_rest_reads_back() {
    let mut tree: Table = toml::from_str(
        "password = 'hunter2'\nempty_token = ''\nsecret_file = '/etc/x'\n[[tokens]]\nname = 'a'\nsha256 = 'b'\n[in]\ntoken_hash = 'c'\nplain = 'd'",
    )
    .unwrap();
    mask(&mut tree);
    let text = toml::to_string(&tree).unwrap();
    assert!(
        !text.contains("hunter2")
            && !text.contains("\"b\"")
            && text.contains("name = \"a\"")
            && !text.contains("\"c\""),
        "{text}"
    );
    assert!(text.contains("/etc/x") && text.contains("\"d\"") && text.contains("empty_token = \"\""), "{text}");

    let printed = Config::default().to_masked_toml().unwrap();
    let again: Config = toml::from_str(&printed).unwrap();
    assert_eq!(again.to_masked_toml().unwrap(), printed);
}
