//! `edge-run --query`: the texts of an input by how well each suits a query.

use serde_json::Value;
use system_tests::{assert_misused, assert_succeeded, patch, place::Place, task};

/// Three texts to rank, and lines that are none.
const TEXTS: &str = "the film was good\n\nvery bad\na pair\tof texts\nunhappy, why not\n";
const QUERY: &str = "was it a good film";

/// A directory with `rank.bias`, a task that ranks.
fn place() -> Place {
    let place = Place::new("bert");
    let ranks = patch(&place.bundle, task("rank", "regression", 2), "rank");
    ranks.save(&place.home.path().join("rank.bias")).unwrap();
    place
}

/// The lines of [`TEXTS`] that have a score, the best first, with the task's outputs for the query and them.
fn due(place: &Place) -> Vec<(u64, f64)> {
    let pairs: String = TEXTS.lines().map(|line| format!("{QUERY}\t{line}\n")).collect();
    let output = place.run(&["-p", "rank.bias", "-o", "jsonl"], pairs.as_bytes());
    let rows = String::from_utf8(output.stdout).unwrap();
    let rows = rows.lines().map(|row| serde_json::from_str::<Value>(row).unwrap());
    // A tab in line 4 is a part of the second text there.
    let rows = rows.filter(|row| row["line"] != 4);
    let mut due: Vec<(u64, f64)> =
        rows.filter_map(|row| Some((row["line"].as_u64().unwrap(), row["value"].as_f64()?))).collect();
    due.sort_by(|a, b| b.1.total_cmp(&a.1));
    assert_eq!(due.len(), 3);
    assert_ne!(due.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 3, 5], "sorted before it is ranked");
    due
}

fn rows(text: &[u8]) -> Vec<Value> {
    std::str::from_utf8(text).unwrap().lines().map(|row| serde_json::from_str(row).unwrap()).collect()
}

#[test]
fn texts_are_ranked_by_their_scores_for_the_query() {
    let place = place();
    let due = due(&place);
    for batch in ["1", "32"] {
        let arguments = ["-p", "rank.bias", "--query", QUERY, "-o", "jsonl", "--logits", "-b", batch];
        let output = place.run(&arguments, TEXTS.as_bytes());
        assert_eq!(output.status.code(), Some(3));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("answers refused, listed last: 2 of 5"), "{said}");
        let found = rows(&output.stdout);
        assert_eq!(found.len(), 5);
        for (at, ((line, value), found)) in due.iter().zip(&found).enumerate() {
            assert_eq!(
                (&found["rank"], &found["line"], &found["task"]),
                (&(at + 1).into(), &(*line).into(), &"rank".into())
            );
            assert_eq!(found["logits"][0].as_f64().unwrap(), *value, "{found}");
            let score = 1.0 / (1.0 + (-value).exp());
            assert!((found["score"].as_f64().unwrap() - score).abs() < 1e-5, "{found} {score}");
        }
        let reasons = ["empty text", "expected one text, beside the query, found a pair of texts"];
        for ((found, line), reason) in found[3..].iter().zip([2, 4]).zip(reasons) {
            assert_eq!((&found["line"], &found["error"]), (&line.into(), &reason.into()));
            assert!(found["rank"].is_null() && found["score"].is_null(), "{found}");
        }
    }
    // The best are kept, and the reasons with them.
    let output = place.run(&["-p", "rank.bias", "--query", QUERY, "-o", "jsonl", "-k", "2"], TEXTS.as_bytes());
    let lines: Vec<Value> = rows(&output.stdout).iter().map(|row| row["line"].clone()).collect();
    assert_eq!(lines, [due[0].0, due[1].0, 2, 4]);
    assert_eq!(assert_succeeded(&place.run(&["-p", "rank.bias", "--query", QUERY], b"")), "");
}

#[test]
fn ranks_are_a_table_for_people_and_one_for_programs() {
    let place = place();
    let best = due(&place)[0];
    let output = place.run(&["-p", "rank.bias", "--query", QUERY], TEXTS.as_bytes());
    let table = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    let text = TEXTS.lines().nth(best.0 as usize - 1).unwrap();
    assert_eq!(lines[0], " rank   line   score  text");
    let score = 1.0 / (1.0 + (-best.1).exp());
    assert_eq!(lines[1], format!("    1  {:5}  {score:6.4}  {text}", best.0));
    assert_eq!(lines[4], "    -      2       -  empty text");

    let output = place.run(&["-p", "rank.bias", "--query", QUERY, "-o", "tsv", "--logits"], TEXTS.as_bytes());
    let table = String::from_utf8(output.stdout).unwrap();
    let cells: Vec<Vec<&str>> = table.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(cells[0], ["rank", "line", "task", "score", "logits", "error"]);
    assert!(cells.iter().all(|row| row.len() == 6), "{table}");
    assert_eq!(cells[1][..3], ["1", &best.0.to_string(), "rank"]);
    assert_eq!((cells[4][0], cells[4][1], cells[4][5]), ("", "2", "empty text"));
}

#[test]
fn only_one_task_that_ranks_takes_a_query() {
    let place = place();
    let misused = |arguments: &[&str], parts: &[&str]| {
        assert_misused(&place.run(&[&["--query", QUERY], arguments].concat(), b"x\n"), parts);
    };
    misused(
        &["-p", "pair.bias"],
        &["--query", "one regression task on two texts", "a classification task on two texts"],
    );
    misused(&["-p", "number.bias"], &["--query", "found a regression task on one text"]);
    misused(&["-p", "rank.bias", "-p", "label.bias"], &["--query", "found 2 tasks"]);
    misused(&["-p", "rank.bias", "-o", "npy"], &["--query", "table, tsv or jsonl"]);
    misused(&["-p", "rank.bias", "--unbuffered"], &["--query", "--unbuffered"]);
    misused(&["-p", "rank.bias", "--labels", "a,b"], &["--query", "--labels"]);
    misused(&["-p", "rank.bias", "--entities"], &["--query", "--entities"]);
    assert_misused(&place.run(&["-p", "rank.bias", "--query", " "], b"x\n"), &["--query", "an empty one"]);
}
