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
fn what_can_not_work_is_named() {
    for (key, value) in [
        ("analytics.batch_events", "0"),
        ("analytics.batch_bytes", "0"),
        ("analytics.flush_bytes", "0"),
        ("analytics.group", "''"),
        ("store.lake.url", "''"),
        ("store.lake.url", "'ftp://somewhere'"),
        ("store.lake.zstd_level", "99"),
        ("store.lake.compaction_files", "1"),
        ("store.clickhouse.url", "'nonsense'"),
        ("store.clickhouse.database", "''"),
        ("journal.kafka.brokers", "''"),
        ("journal.kafka.partitions", "0"),
        ("journal.kafka.security_protocol", "'tls'"),
    ] {
        refused(&format!("{key} = {value}"), &[], &[key]);
    }
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

/// The page's TOML, with the keys that are unset by default or without them.
fn documented(with_optional: bool) -> Config {
    let page = include_str!("../../docs/configuration.md");
    let (_, toml) = page.split_once("```toml\n").unwrap();
    let (toml, _) = toml.split_once("```").unwrap();
    let shown = |line: &str| {
        let key = line.strip_prefix("# ").filter(|_| with_optional);
        key.filter(|key| key.starts_with('[') || key.contains(" = ")).unwrap_or(line).to_owned() + "\n"
    };
    load(&toml.lines().map(shown).collect::<String>(), &[], Vec::new()).unwrap()
}

#[test]
fn the_page_gives_every_key_and_its_default() {
    let page = include_str!("../../docs/configuration.md");
    let in_effect = load("", &[], Vec::new()).unwrap().to_masked_toml().unwrap();
    assert_eq!(documented(false).to_masked_toml().unwrap(), in_effect);
    for line in in_effect.lines().filter(|line| !line.is_empty()) {
        let key = line.split(" = ").next().unwrap();
        let list = format!("# [[ingest.{key}]]");
        let there = |shown: &str| shown.starts_with(key) || shown.starts_with(&list);
        // Tables that hold only tables are not written out.
        assert!(page.lines().any(there) || key.starts_with('['), "{key} is not on the page");
    }
    let unset = format!("{:?}", documented(true));
    assert!(!unset.contains("None"), "keys that the page leaves out: {unset}");
    assert!(!unset.contains("tokens: []") && !unset.contains("certificates: []"), "{unset}");
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

    for secret in ["ssl.key.pem", "sasl.jaas.config", "sasl.oauthbearer.config", "sasl.password"] {
        assert!(is_secret(secret), "{secret}");
    }
    for secret in
        ["azure_storage_account_key", "azure_storage_sas_key", "google_service_account_key", "aws_session_token"]
    {
        assert!(is_secret(secret), "{secret}");
    }
    for plain in ["ssl_key_location", "sasl_mechanism", "sasl.kerberos.keytab.location", "aws_region", "aws_endpoint"] {
        assert!(!is_secret(plain), "{plain}");
    }
    let url = |text: &str| {
        let mut text = text.to_owned();
        mask_password_in_url(&mut text);
        text
    };
    assert_eq!(url("http://u:hunter2@h:8123/p@q"), "http://u:***@h:8123/p@q");
    assert_eq!(url("http://u@h/a:b@c"), "http://u@h/a:b@c");
    assert_eq!(url("s3://bucket/lake"), "s3://bucket/lake");

    let printed = Config::default().to_masked_toml().unwrap();
    let again: Config = toml::from_str(&printed).unwrap();
    assert_eq!(again.to_masked_toml().unwrap(), printed);
}
