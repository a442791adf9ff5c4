use serde_json::json;

use super::*;
use crate::domain::spec::{ImageSize, ReferenceMode};
use crate::domain::state::WebhookEvent;
use crate::domain::webhook::WebhookSpec;

pub(super) const RULES: Rules<'_> = Rules {
    max_rows: 1_000,
    max_variants: 3,
    default_model: "standard",
    here: Here { host: Some("127.0.0.1:9090"), locate: &stored },
    webhook_refusal: &|url| url.contains("private").then(|| "it is private".to_owned()),
};

/// A storage that knows its objects by a path and by a bucket.
fn stored(address: &str) -> Option<String> {
    let object = address.strip_prefix("/assets/").or_else(|| address.strip_prefix("gs://pictures/"))?;
    Some(object.split(['?', '#']).next().unwrap().to_owned())
}

fn check_value(body: &Value) -> Result<Accepted, Vec<Fault>> {
    check(body.to_string().as_bytes(), RULES)
}

/// The faults as `pointer: detail`.
fn faults(body: &Value) -> Vec<String> {
    let faults = check_value(body).map(|accepted| accepted.spec).expect_err("the body has faults");
    faults.into_iter().map(|fault| format!("{}: {}", fault.pointer.unwrap(), fault.detail)).collect()
}

/// The pointers of the faults of one item.
fn item_faults(item: &Value) -> Vec<String> {
    let Err(faults) = check_value(&json!({"items": [item]})) else { return Vec::new() };
    faults.into_iter().map(|fault| fault.pointer.unwrap()).collect()
}

fn item(with: &Value) -> Value {
    let mut item = json!({"sceneId": "s-1", "prompt": "a cup"});
    item.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
    item
}

fn accepted(body: &Value) -> Accepted {
    check_value(body).unwrap()
}

fn urls(spec: &BatchSpec) -> Vec<&str> {
    spec.items[0].references.iter().map(|reference| reference.url.as_str()).collect()
}

#[test]
fn the_rows_of_a_batch_share_the_texts_of_its_pack() {
    let rows = [item(&json!({})), item(&json!({"sceneId": "s-2", "references": ["https://a.test/own"]}))];
    let spec = accepted(&json!({"referencePack": ["https://a.test/pack"], "items": rows})).spec;
    let [one, other] = [0, 1].map(|row| spec.items[row].references.last().unwrap().url.as_str());
    assert!(std::ptr::eq(one, other), "{one} and {other}");
}

#[test]
fn a_minimal_body_is_filled_up_with_the_defaults() {
    let spec = accepted(&json!({"items": [{"sceneId": "s-1", "prompt": "a cup"}]})).spec;
    assert_eq!(spec.run_mode, RunMode::DryRun);
    assert_eq!(spec.model, "standard");
    assert_eq!(spec.items[0].variants, 1);
    assert_eq!(spec.items[0].aspect_ratio.to_string(), "1:1");
    assert_eq!(spec.items[0].image_size, ImageSize::OneK);
    assert!(spec.items[0].references.is_empty());
}

#[test]
fn the_original_services_names_mean_the_same_as_ours() {
    let original = json!({
        "run_mode": "live", "ref_pack_public_urls": ["https://a.test/p.png"],
        "items": [{"scene_id": "s-1", "prompt": "a cup", "references": ["https://a.test/o.png"],
                   "reference_mode": "style_and_composition", "aspect_ratio": "16:9", "image_size": "2K"}],
    });
    let ours = json!({
        "runMode": "live", "referencePack": [{"url": "https://a.test/p.png"}],
        "items": [{"sceneId": "s-1", "prompt": "a cup", "references": [{"url": "https://a.test/o.png"}],
                   "referenceMode": "style_and_composition", "aspectRatio": "16:9", "imageSize": "2K"}],
    });
    let (original, ours) = (accepted(&original), accepted(&ours));
    assert_eq!(original.spec, ours.spec);
    assert_eq!(original.request_hash, ours.request_hash);
    assert_eq!(ours.spec.run_mode, RunMode::Live);
    assert_eq!(ours.spec.items[0].references[0].mode, ReferenceMode::StyleAndComposition);
}

#[test]
fn every_fault_of_a_body_is_told_at_once_where_it_is() {
    let body = json!({
        "runMode": "fast", "run_mode": "live", "model": "", "webHook": "https://a.test", "a/b~c": 1,
        "referencePack": ["ftp://a.test/x", 7],
        "items": [
            {"sceneId": "s-1", "prompt": " ", "variants": 4, "imageSize": "8K", "aspectRatio": "7:1", "colour": "red"},
            {"scene_id": "S-1", "sceneId": "s-2", "prompt": 5, "referenceMode": "all"},
            {"scene_id": "S-1", "prompt": "x", "references": [{"mode": "style", "sha256": "ab"}, {"url": "https://u:p@a.test/"}]},
            "row",
            {},
        ],
    });
    insta::assert_json_snapshot!(faults(&body), @r#"
    [
      "/a~1b~0c: unknown field; known here: runMode, model, referencePack, items, webhook",
      "/webHook: unknown field; known here: runMode, model, referencePack, items, webhook",
      "/run_mode: the same as runMode; give one of them",
      "/runMode: must be dry_run or live",
      "/model: must be the name of a model, at most 100 characters",
      "/referencePack/0: only https:// and http:// references are taken, and the url or uri of a picture of this service",
      "/referencePack/1: must be a URL or an object with one, not a number",
      "/items/0/colour: unknown field; known here: sceneId, prompt, variants, references, referenceMode, aspectRatio, imageSize",
      "/items/0/prompt: must not be empty",
      "/items/0/variants: must be a whole number from 1 to 3",
      "/items/0/aspectRatio: must be one of 1:1, 2:3, 3:2, 3:4, 4:3, 4:5, 5:4, 9:16, 16:9, 21:9",
      "/items/0/imageSize: must be one of 512, 1K, 2K, 4K",
      "/items/1/scene_id: the same as sceneId; give one of them",
      "/items/1/prompt: must be a string, not a number",
      "/items/1/referenceMode: must be style_only or style_and_composition",
      "/items/2/references/0/url: is required",
      "/items/2/references/0/mode: must be style_only or style_and_composition",
      "/items/2/references/0/sha256: must be 64 hex digits",
      "/items/2/references/1/url: must not contain a user name or a password",
      "/items/2/scene_id: item 0 has this scene id already; they must differ in more than case",
      "/items/3: must be an object, not a string",
      "/items/4/sceneId: is required",
      "/items/4/prompt: is required"
    ]
    "#);
}

#[test]
fn a_scene_id_given_twice_is_a_fault_of_the_second_row() {
    let body = json!({"items": [
        {"sceneId": "a", "prompt": ""}, {"sceneId": "b", "prompt": "x"}, {"scene_id": "A", "prompt": "x"},
    ]});
    let faults = check_value(&body).unwrap_err();
    let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_deref().unwrap()).collect();
    assert_eq!(pointers, ["/items/0/prompt", "/items/2/scene_id"]);
}

#[test]
fn each_field_of_a_row_keeps_its_rule() {
    let hash = "A".repeat(64);
    for (with, expected) in [
        (json!({}), vec![]),
        (json!({"variants": 3, "model": null}), vec!["/items/0/model"]),
        (json!({"variants": null, "references": null, "imageSize": null}), vec![]),
        (json!({"sceneId": null}), vec!["/items/0/sceneId"]),
        (json!({"sceneId": "-a"}), vec!["/items/0/sceneId"]),
        (json!({"sceneId": "x".repeat(51)}), vec!["/items/0/sceneId"]),
        (json!({"prompt": "\u{e9}".repeat(4_000)}), vec![]),
        (json!({"prompt": "x".repeat(4_001)}), vec!["/items/0/prompt"]),
        (json!({"prompt": "a\u{0}b"}), vec!["/items/0/prompt"]),
        (json!({"prompt": "\u{2003}\n"}), vec!["/items/0/prompt"]),
        (json!({"variants": 0}), vec!["/items/0/variants"]),
        (json!({"variants": -1}), vec!["/items/0/variants"]),
        (json!({"variants": 1.5}), vec!["/items/0/variants"]),
        (json!({"variants": "2"}), vec!["/items/0/variants"]),
        (json!({"variants": 4_294_967_297_u64}), vec!["/items/0/variants"]),
        (json!({"imageSize": "1k"}), vec!["/items/0/imageSize"]),
        (json!({"aspectRatio": "16:10"}), vec!["/items/0/aspectRatio"]),
        (json!({"references": "https://a.test/x"}), vec!["/items/0/references"]),
        (json!({"references": [{"url": "https://a.test/x", "sha256": hash, "mode": "style_only"}]}), vec![]),
        (
            json!({"references": [{"url": "https://a.test/x", "sha256": "g".repeat(64)}]}),
            vec!["/items/0/references/0/sha256"],
        ),
        (json!({"references": [{"url": "https://a.test/x", "weight": 1}]}), vec!["/items/0/references/0/weight"]),
    ] {
        assert_eq!(item_faults(&item(&with)), expected, "{with}");
    }
}

#[test]
fn a_reference_is_an_absolute_web_address_without_user_info() {
    let long = format!("https://a.test/{}", "x".repeat(2_034));
    for bad in [
        "",
        "a.png",
        "//a.test/x",
        "/assets",
        "//assets/x",
        "assets/x",
        "gs://bucket/x",
        "gs://pictures",
        "GS://pictures/images/b/1.png",
        "local:images/b/1.png",
        "file:///etc/passwd",
        "data:image/png;base64,AA",
        "https://",
        "https://user@a.test/",
        "https://:p@a.test/",
        "https://a.test/a b",
        "https://a.test/\u{0}",
        " https://a.test/",
        "https://a.test/\n",
        &long,
    ] {
        assert_eq!(item_faults(&item(&json!({"references": [bad]}))), ["/items/0/references/0"], "{bad}");
    }
    for good in [
        "https://a.test/x?y=1#z",
        "http://127.0.0.1:8080/x",
        "HTTPS://A.TEST",
        "https://b\u{fc}cher.test/",
        &long[..2_048],
        "/assets/references/a/b.png",
        "gs://pictures/references/a/b.png",
    ] {
        assert!(item_faults(&item(&json!({"references": [good]}))).is_empty(), "{good}");
    }
}

#[test]
fn a_picture_of_this_service_is_kept_by_its_path_however_the_client_reached_the_service() {
    let link = "/assets/images/b/1.png?expires=1&signature=x";
    for (given, kept) in [
        (link.to_owned(), link),
        (format!("http://127.0.0.1:9090{link}"), link),
        (format!("https://127.0.0.1:9090{link}#z"), link),
        (format!("http://LOCALHOST:9090{link}"), link),
        (format!("http://[::1]:9090{link}"), link),
        ("http://127.0.0.1:9090/assets/../signing.key".to_owned(), "http://127.0.0.1:9090/assets/../signing.key"),
        ("http://127.0.0.1:9091/assets/a".to_owned(), "http://127.0.0.1:9091/assets/a"),
        ("http://127.0.0.1/assets/a".to_owned(), "http://127.0.0.1/assets/a"),
        ("http://a.test:9090/assets/a".to_owned(), "http://a.test:9090/assets/a"),
        ("http://127.0.0.1:9090/a".to_owned(), "http://127.0.0.1:9090/a"),
    ] {
        let body = json!({"items": [item(&json!({"references": [{"url": given}]}))]});
        assert_eq!(urls(&accepted(&body).spec), [kept], "{given}");
    }
    let named = |host| {
        let body = json!({"items": [item(&json!({"references": ["https://pictures.test/assets/a"]}))]}).to_string();
        let here = Here { host, ..RULES.here };
        check(body.as_bytes(), Rules { here, ..RULES }).unwrap().spec.items[0].references[0].url.as_str().to_owned()
    };
    assert_eq!(named(Some("Pictures.TEST")), "/assets/a");
    assert_eq!(named(Some("pictures.test:443")), "/assets/a");
    for other in [None, Some("pictures.test:80"), Some("other.test"), Some(""), Some("[")] {
        assert_eq!(named(other), "https://pictures.test/assets/a", "{other:?}");
    }
}

#[test]
fn two_links_to_one_picture_are_one_reference() {
    let links = ["/assets/a/b?expires=1", "http://localhost:9090/assets/a/b?expires=2", "/assets/a/b", "/assets/a/c"];
    let links = [&links[..], &["gs://pictures/a/b", "gs://pictures/a/c"]].concat();
    let body = json!({"items": [item(&json!({"references": links}))]});
    assert_eq!(urls(&accepted(&body).spec), ["/assets/a/b?expires=1", "/assets/a/c"]);
}

#[test]
fn an_address_of_a_storage_that_is_not_ours_is_refused_with_what_to_do() {
    let body = json!({"items": [item(&json!({"references": ["https://a.test/1.png", "gs://other/images/b/1.png"]}))]});
    assert_eq!(
        faults(&body),
        [
            "/items/0/references/1: is not where this service keeps pictures: give a url or a uri that it handed out, or upload the picture"
        ]
    );
}

#[test]
fn an_items_own_references_come_first_and_equal_ones_count_once() {
    let hash = "a".repeat(64);
    let body = json!({
        "referencePack": ["https://a.test/pack", "HTTPS://a.test:443/own", {"url": "https://a.test/mirror", "sha256": hash}],
        "items": [item(&json!({"references": [
            "https://a.test/own", "https://a.test/own", {"url": "https://a.test/hashed", "sha256": hash.to_uppercase()},
        ]}))],
    });
    let spec = accepted(&body).spec;
    assert_eq!(urls(&spec), ["https://a.test/own", "https://a.test/hashed", "https://a.test/pack"]);
    assert_eq!(spec.items[0].references[1].sha256.as_deref(), Some(hash.as_str()));
}

#[test]
fn a_mode_of_its_own_beats_that_of_the_row() {
    let body = json!({
        "referencePack": ["https://a.test/p"],
        "items": [item(&json!({"referenceMode": "style_and_composition", "references": [
            {"url": "https://a.test/1", "mode": "style_only"}, "https://a.test/2"]}))],
    });
    let modes: Vec<_> = accepted(&body).spec.items[0].references.iter().map(|reference| reference.mode).collect();
    let (style, both) = (ReferenceMode::StyleOnly, ReferenceMode::StyleAndComposition);
    assert_eq!(modes, [style, both, both]);
}

#[test]
fn a_row_has_at_most_six_references_with_those_of_the_pack() {
    let list =
        |name: &str, count: u32| (0..count).map(|n| json!(format!("https://a.test/{name}{n}"))).collect::<Vec<_>>();
    let body =
        |pack, own| json!({"referencePack": list("p", pack), "items": [item(&json!({"references": list("o", own)}))]});
    assert!(check_value(&body(3, 3)).is_ok());
    assert_eq!(faults(&body(3, 4)), ["/items/0/references: at most 6 references after the pack is merged, not 7"]);
    assert_eq!(faults(&body(7, 0)), ["/referencePack: must hold at most 6 different references, not 7"]);
}

#[test]
fn a_batch_has_at_least_one_row_and_at_most_the_bound() {
    let rows = |count: usize| (0..count).map(|n| json!({"sceneId": n.to_string(), "prompt": "x"})).collect::<Vec<_>>();
    assert!(check_value(&json!({"items": rows(1_000)})).is_ok());
    assert_eq!(faults(&json!({"items": rows(1_001)})), ["/items: must hold 1-1000 items, not 1001"]);
    assert_eq!(faults(&json!({"items": []})), ["/items: must hold 1-1000 items, not 0"]);
    assert_eq!(faults(&json!({"items": {}})), ["/items: must be an array, not an object"]);
    assert_eq!(faults(&json!({})), ["/items: is required"]);
    assert_eq!(faults(&json!([])), [": must be an object, not an array"]);
}

#[test]
fn a_long_list_of_faults_ends_with_how_many_more_there_are() {
    let rows: Vec<_> = (0..150).map(|n| json!({"sceneId": n.to_string()})).collect();
    let faults = faults(&json!({"items": rows}));
    assert_eq!(faults.len(), at::MAX_FAULTS + 1);
    assert_eq!(faults.last().unwrap(), ": 50 more faults are not listed");
}

#[test]
fn a_name_given_twice_is_a_fault_even_with_one_value() {
    let body = br#"{"runMode":"dry_run","runMode":"live","items":[{"sceneId":"a","prompt":"x","prompt":"x"}]}"#;
    let faults = check(body, RULES).unwrap_err();
    let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_deref().unwrap()).collect();
    assert_eq!(pointers, ["/runMode", "/items/0/prompt"]);
}

#[test]
fn what_is_not_json_is_told_with_its_position() {
    let detail = |body: &[u8]| check(body, RULES).unwrap_err()[0].detail.clone().into_owned();
    assert_eq!(detail(b""), "the body is empty");
    assert!(detail(b"{\"items\": [\n}").contains("line 2 column 1"), "{}", detail(b"{\"items\": [\n}"));
    assert!(detail(b"{} {}").contains("trailing characters"));
    assert!(detail(b"{\"a\": \"\xff\"}").contains("line 1"));
    assert!(detail("[".repeat(100_000).as_bytes()).contains("recursion limit"));
}

#[test]
fn a_body_of_very_many_values_is_not_built_up() {
    let body = format!("[{}0]", "0,".repeat(1_000_000));
    let faults = check(body.as_bytes(), RULES).unwrap_err();
    assert!(faults[0].detail.contains("more values than"), "{}", faults[0].detail);
}

#[test]
fn a_very_long_unknown_name_is_not_repeated() {
    let faults = check_value(&json!({"x".repeat(1_000_000): 1, "items": [item(&json!({}))]})).unwrap_err();
    assert_eq!(faults[0].pointer.as_deref(), Some(""));
    assert!(faults[0].detail.len() < 300);
}

#[test]
fn the_request_hash_knows_the_meaning_and_not_the_writing() {
    let hash = |text: &str| check(text.as_bytes(), RULES).unwrap().request_hash;
    let base = hash(r#"{"runMode":"live","items":[{"sceneId":"a","prompt":"x"}]}"#);
    assert_eq!(
        base,
        hash("{ \"items\": [ {\"prompt\":\"\\u0078\", \"variants\":1,\n\"scene_id\":\"a\"} ],\"run_mode\":\"live\" }")
    );
    for other in [
        r#"{"runMode":"dry_run","items":[{"sceneId":"a","prompt":"x"}]}"#,
        r#"{"runMode":"live","model":"standard","items":[{"sceneId":"a","prompt":"x"}]}"#,
        r#"{"runMode":"live","items":[{"sceneId":"A","prompt":"x"}]}"#,
        r#"{"runMode":"live","items":[{"sceneId":"a","prompt":"x "}]}"#,
        r#"{"runMode":"live","items":[{"sceneId":"a","prompt":"x","variants":2}]}"#,
        r#"{"runMode":"live","items":[{"sceneId":"a","prompt":"x","imageSize":"4K"}]}"#,
        r#"{"runMode":"live","items":[{"sceneId":"a","prompt":"x","aspectRatio":"3:2"}]}"#,
        r#"{"runMode":"live","items":[{"sceneId":"a","prompt":"x","references":["https://a.test/"]}]}"#,
        r#"{"runMode":"live","items":[{"sceneId":"a","prompt":"x"},{"sceneId":"b","prompt":"x"}]}"#,
        r#"{"runMode":"live","items":[{"sceneId":"a","prompt":"x"}],"webhook":{"url":"https://a.test/"}}"#,
    ] {
        assert_ne!(base, hash(other), "{other}");
    }
}

#[test]
fn a_request_hash_does_not_depend_on_the_default_model() {
    let body = br#"{"items":[{"sceneId":"a","prompt":"x"}]}"#;
    let other = Rules { default_model: "another", ..RULES };
    let (one, two) = (check(body, RULES).unwrap(), check(body, other).unwrap());
    assert_ne!(one.spec.model, two.spec.model);
    assert_eq!(one.request_hash, two.request_hash);
}

fn webhook(webhook: &Value) -> Result<WebhookSpec, Vec<Fault>> {
    let checked = check_value(&json!({"items": [{"sceneId": "a", "prompt": "x"}], "webhook": webhook}));
    checked.map(|accepted| accepted.spec.webhook.unwrap())
}

#[test]
fn a_webhook_is_told_of_the_end_unless_it_asks_for_more() {
    let read = webhook(&json!({"url": "https://a.test/hook?x=1"})).unwrap();
    assert_eq!(read.url, "https://a.test/hook?x=1");
    assert_eq!((read.events, read.secret), (vec![WebhookEvent::BatchCompleted], None));
    let events = json!(["image.completed", "batch.completed", "image.completed"]);
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let read = webhook(&json!({"url": "https://a.test/", "events": events, "secret": secret})).unwrap();
    assert_eq!(read.events, [WebhookEvent::BatchCompleted, WebhookEvent::ImageCompleted], "each once");
    assert_eq!(read.secret.unwrap().expose(), secret);
    let none = accepted(&json!({"items": [{"sceneId": "a", "prompt": "x"}], "webhook": null})).spec;
    assert_eq!(none.webhook, None);
}

#[test]
fn what_is_wrong_with_a_webhook_is_told_where_it_is() {
    let faults = |value: &Value| -> Vec<String> {
        let faults = webhook(value).expect_err("it has faults").into_iter();
        faults.map(|fault| format!("{}: {}", fault.pointer.unwrap(), fault.detail)).collect()
    };
    let body = json!({"url": "https://private.test/", "events": ["batch.completed", "done", 7], "secret": "whsec_AAAA", "name": 1});
    insta::assert_json_snapshot!(faults(&body), @r#"
    [
      "/webhook/name: unknown field; known here: url, events, secret",
      "/webhook/url: messages do not go there: it is private",
      "/webhook/events/1: must be one of batch.completed, image.completed",
      "/webhook/events/2: must be one of batch.completed, image.completed",
      "/webhook/secret: must be whsec_ and the base64 of 24-64 bytes"
    ]
    "#);
    for (value, fault) in [
        (json!("https://a.test/"), "/webhook: must be an object, not a string"),
        (json!({}), "/webhook/url: is required"),
        (json!({"url": "gs://pictures/a"}), "/webhook/url: must be an absolute URL that starts with https://"),
        (
            json!({"url": "https://a.test/", "events": []}),
            "/webhook/events: must name at least one of batch.completed, image.completed; leave it out for the first",
        ),
        (
            json!({"url": "https://a.test/", "events": "batch.completed"}),
            "/webhook/events: must be an array, not a string",
        ),
        (json!({"url": "https://a.test/", "secret": 7}), "/webhook/secret: must be a string, not a number"),
    ] {
        assert_eq!(faults(&value), [fault]);
    }
}

#[test]
fn the_request_hash_knows_the_meaning_of_a_webhook() {
    let hash = |webhook: Value| {
        accepted(&json!({"items": [{"sceneId": "a", "prompt": "x"}], "webhook": webhook})).request_hash
    };
    let base = hash(json!({"url": "https://a.test/"}));
    assert_eq!(base, hash(json!({"events": ["batch.completed"], "url": "https://a.test/"})));
    for other in [
        json!(null),
        json!({"url": "https://a.test/x"}),
        json!({"url": "https://a.test/", "events": ["image.completed"]}),
        json!({"url": "https://a.test/", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}),
    ] {
        assert_ne!(base, hash(other.clone()), "{other}");
    }
}
