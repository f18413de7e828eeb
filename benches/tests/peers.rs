//! Vedette's side of the comparison with its peers: it starts, and from JSON and over columns it counts the same.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn events_and_columns_give_the_same_counts() {
    // Cargo builds a package's examples for its tests, and says of none where it is.
    let test = std::env::current_exe().unwrap();
    let peers = test.parent().and_then(Path::parent).unwrap().join("examples/peers");
    assert!(peers.exists(), "{peers:?} is built by `cargo test --workspace`, or with --examples");
    let folder = tempfile::tempdir().unwrap();
    let written = Command::new(&peers).arg("write").arg(folder.path()).arg("300").status().unwrap();
    assert!(written.success());
    assert!(folder.path().join("audit.arrow").metadata().unwrap().len() > 0);

    let mut serving = Command::new(&peers)
        .arg("serve")
        .args([folder.path(), &folder.path().join("conditions.json")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    serving.stdin.take().unwrap().write_all(b"events\ncolumns\n").unwrap();
    let lines = BufReader::new(serving.stdout.take().unwrap()).lines();
    let answers: Vec<Vec<u64>> = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    assert!(serving.wait().unwrap().success());
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0].len(), 100);
    assert!(answers[0].iter().sum::<u64>() > 0);
}
