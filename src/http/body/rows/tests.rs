use serde_json::json;

use super::super::check;
use super::*;
use crate::http::body::tests::RULES;

fn query(run_mode: &str, model: &str) -> RowsQuery {
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    RowsQuery { run_mode: given(run_mode), model: given(model) }
}

fn csv(text: &str) -> Result<Accepted, Vec<Fault>> {
    check_rows(text.as_bytes(), RowFormat::Csv, &RowsQuery::default(), RULES)
}

fn jsonl(text: &str) -> Result<Accepted, Vec<Fault>> {
    check_rows(text.as_bytes(), RowFormat::Jsonl, &RowsQuery::default(), RULES)
}

/// The faults as `pointer (line): detail`.
fn told(checked: Result<Accepted, Vec<Fault>>) -> Vec<String> {
    let faults = checked.map(|accepted| accepted.spec).expect_err("there are faults");
    let line = |fault: &Fault| fault.line.map(|line| format!(" ({line})")).unwrap_or_default();
    faults
        .iter()
        .map(|fault| format!("{}{}: {}", fault.pointer.as_deref().unwrap(), line(fault), fault.detail))
        .collect()
}

fn prompts(accepted: &Accepted) -> Vec<&str> {
    accepted.spec.items.iter().map(|item| item.prompt.as_str()).collect()
}

#[test]
fn rows_mean_the_same_as_the_same_batch_as_json() {
    let batch = json!({"runMode": "live", "model": "fine", "items": [
        {"sceneId": "s-1", "prompt": "a cup, \"red\"\nand round", "variants": 3,
         "references": ["https://a.test/1.png", "https://a.test/2.png"], "referenceMode": "style_and_composition",
         "aspectRatio": "16:9", "imageSize": "2K"},
        {"sceneId": "s-2", "prompt": "茶碗 🍵"},
    ]});
    let csv = "scene_id,prompt,variants,references,reference_mode,aspect_ratio,image_size\r\n\
        s-1,\"a cup, \"\"red\"\"\nand round\",3,https://a.test/1.png  https://a.test/2.png,style_and_composition,16:9,2K\r\n\
        s-2,茶碗 🍵,,,,,\r\n";
    let lines: Vec<String> = batch["items"].as_array().unwrap().iter().map(ToString::to_string).collect();
    let json = check(batch.to_string().as_bytes(), RULES).unwrap();
    for (format, text) in [(RowFormat::Csv, csv), (RowFormat::Jsonl, lines.join("\n").as_str())] {
        let rows = check_rows(text.as_bytes(), format, &query("live", "fine"), RULES).unwrap();
        assert_eq!((&rows.spec, &rows.request_hash), (&json.spec, &json.request_hash), "{format:?}");
    }
}

#[test]
fn a_batch_of_rows_is_a_dry_run_of_the_default_model_unless_the_query_says_otherwise() {
    let rows = csv("sceneId,prompt\ns-1,a cup").unwrap();
    assert_eq!((rows.spec.run_mode, rows.spec.model.as_str()), (RunMode::DryRun, "standard"));
    let faults = check_rows(b"{}", RowFormat::Jsonl, &query("wet", "a\tb"), RULES).unwrap_err();
    let parameters: Vec<_> = faults.iter().filter_map(|fault| fault.parameter).collect();
    assert_eq!((parameters, faults.len()), (vec!["runMode", "model"], 4), "{faults:?}");
}

#[test]
fn a_csv_is_taken_as_spreadsheets_write_it() {
    for (name, text) in [
        ("a byte order mark, semicolons and CRLF, as Excel does", "\u{feff}sceneId;prompt;variants\r\ns-1;a, b;2\r\n"),
        ("its line that names the delimiter", "sep=;\r\nsceneId;prompt;variants\r\ns-1;a, b;2\r\n"),
        ("tabs", "sceneId\tprompt\tvariants\ns-1\ta, b\t2\n"),
        ("line ends of old", "sceneId,prompt,variants\rs-1,\"a, b\",2\r"),
        ("no last line end", "sceneId,prompt,variants\ns-1,\"a, b\",2"),
        ("names in other case, with spaces, in another order", "Variants, PROMPT ,Scene_ID\n 2 ,\"a, b\", s-1 \n"),
        ("columns and rows that are empty", "\n\nsceneId,prompt,variants,,\n,,,,\ns-1,\"a, b\",2,,\n,,\n\n"),
    ] {
        let rows = csv(text).unwrap_or_else(|faults| panic!("{name}: {faults:?}"));
        assert_eq!((prompts(&rows), rows.spec.items[0].variants), (vec!["a, b"], 2), "{name}");
        assert_eq!(rows.spec.items[0].scene_id.as_str(), "s-1", "{name}");
    }
    let quotes = csv("sceneId,prompt\ns-1,a 5\" screen\ns-2,\" kept as it is \"\ns-3,\"\"\"quoted\"\"\"").unwrap();
    assert_eq!(prompts(&quotes), ["a 5\" screen", " kept as it is ", "\"quoted\""]);
}

#[test]
fn every_fault_of_a_csv_has_its_pointer_and_its_line() {
    let text = "scene_id;prompt;variants;references;aspectRatio\r\n\
        s-1;\"two\r\nlines\";1;;\r\n\
        \r\n\
        S-1;;many;https://a.test/1.png ftp://a.test/2.png;7:7\r\n\
        s-3;a;1;;;too;many\r\n";
    let expected = [
        "/items/1/prompt (5): is required",
        "/items/1/variants (5): must be a whole number from 1 to 3",
        "/items/1/references/1 (5): only https:// and http:// references are taken, and the url or uri of a picture of this service",
        "/items/1/aspectRatio (5): must be one of 1:1, 2:3, 3:2, 3:4, 4:3, 4:5, 5:4, 9:16, 16:9, 21:9",
        "/items/1/scene_id (5): the row on line 2 has this scene id already; they must differ in more than case",
        "/items/2 (6): cell 6 is under no name of the header row; a text with a comma or a line end goes in quotes",
    ];
    assert_eq!(told(csv(text)), expected);
}

#[test]
fn a_header_row_that_says_too_little_or_too_much_is_told_once() {
    let known = "known here: sceneId, prompt, variants, references, referenceMode, aspectRatio, imageSize";
    let expected = [
        format!("/items/0/colour (1): unknown column; {known}"),
        "/items/0/scene_id (1): two columns have this meaning; keep one of them".to_owned(),
    ];
    assert_eq!(told(csv("sceneId,prompt,colour,scene_id\ns-1,a,red,s-2\ns-2,b,red,s-3")), expected);
    let expected = ["s-1", "a cup"].map(|name| format!("/items/0/{name} (1): unknown column; {known}"));
    assert_eq!(told(csv("s-1,a cup\ns-2,a vase")), expected);
    let expected =
        ["/items/0/prompt (1): no column has this name; the header row must name at least sceneId and prompt"];
    assert_eq!(told(csv("sceneId,variants\ns-1,1")), expected);
}

#[test]
fn a_csv_that_cannot_be_read_on_says_why() {
    let bytes = |body: &[u8]| told(check_rows(body, RowFormat::Csv, &RowsQuery::default(), RULES)).join("; ");
    for (text, expected) in [
        ("", ": is empty; send a header row such as sceneId,prompt and a row for each item"),
        ("\n \n", ": is empty; send a header row such as sceneId,prompt and a row for each item"),
        ("sceneId,prompt\n", "/items: must hold 1-1000 items, not 0"),
        (
            "sceneId,prompt\ns-1,a\ns-2,\"never closed\ns-3,b\n",
            " (3): a quote is opened in the row that starts here and never closed",
        ),
        (&format!("sceneId,prompt\ns-1,a{}", ",".repeat(300)), " (2): a row may have at most 256 cells"),
        (
            &format!("sceneId,prompt,references\ns-1,a,{}", "x ".repeat(100)),
            "/items/0/references (2): more than 64 addresses in a cell",
        ),
    ] {
        assert_eq!(bytes(text.as_bytes()), expected);
    }
    assert_eq!(bytes(b"\xff\xfes\0"), ": the text is UTF-16; save it as UTF-8 (in Excel: \"CSV UTF-8\")");
    let expected = ": the text is not UTF-8, first on line 2; save it as UTF-8 (in Excel: \"CSV UTF-8\")";
    assert_eq!(bytes(b"sceneId,prompt\ns-1,caf\xe9"), expected);
}

#[test]
fn every_fault_of_a_jsonl_has_its_pointer_and_its_line() {
    let text = "{\"sceneId\": \"s-1\", \"prompt\": \"a\"}\n\
        \r\n\
        {\"sceneId\": \"s-2\", \"prompt\": }\r\n\
        [1]\n\
        {\"sceneId\": \"S-1\", \"prompt\": \"b\", \"prompt\": \"c\", \"colour\": \"red\"}";
    let expected = [
        "/items/1 (3): cannot be read as JSON: expected value at column 30",
        "/items/2 (4): must be an object, not an array",
        "/items/3/prompt (5): is given twice",
        "/items/3/colour (5): unknown field; known here: sceneId, prompt, variants, references, referenceMode, \
            aspectRatio, imageSize",
        "/items/3/sceneId (5): the row on line 1 has this scene id already; they must differ in more than case",
    ];
    assert_eq!(told(jsonl(text)), expected);
    assert_eq!(told(jsonl("")), ["/items: must hold 1-1000 items, not 0"]);
}

#[test]
fn more_rows_than_a_batch_may_have_are_counted_and_not_kept() {
    let rows = RULES.max_rows + 5;
    let written = |row: &dyn Fn(u32) -> String| (0..rows).map(row).collect::<Vec<_>>().join("\n");
    let faults = told(csv(&format!("sceneId,prompt\n{}", written(&|row| format!("s-{row},a")))));
    assert_eq!(faults, ["/items: must hold 1-1000 items, not 1005"]);
    let lines = written(&|row| format!("{{\"sceneId\": \"s-{row}\", \"prompt\": \"a\"}}"));
    assert_eq!(told(jsonl(&lines)), ["/items: must hold 1-1000 items, not 1005"]);
}

#[test]
fn a_line_of_very_many_values_is_refused_before_they_fill_the_memory() {
    let line = format!("[{}1]", "1,".repeat(1 << 20));
    let faults = told(jsonl(&line));
    assert!(faults[0].contains("more values than the rows of a batch can need"), "{faults:?}");
}
