//! The request: where it goes and what it holds. Each reference is written once, straight into the body.

use reqwest::Url;
use serde::Serialize;

use super::data;
use crate::domain::spec::ReferenceMode;
use crate::provider::ImageCall;

/// Introduces a reference of which the style alone counts.
pub(super) const STYLE_ONLY: &str =
    "Style reference: take over the style of the next picture, not its subject and not its composition.";
/// Introduces a reference of which the composition counts too.
pub(super) const STYLE_AND_COMPOSITION: &str =
    "Style and composition reference: take over the style and the composition of the next picture.";
/// Models whose names begin with this have one size and refuse to be told it.
const UNSIZED_MODELS: &str = "gemini-2.5";
/// Room for everything around prompt and references.
const AROUND: usize = 512;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GenerationConfig {
    response_modalities: [&'static str; 2],
    image_config: ImageConfig,
    max_output_tokens: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ImageConfig {
    aspect_ratio: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_size: Option<&'static str>,
}

/// Where a call of `model` goes. `base` is an http or https URL.
pub(super) fn address(base: &Url, model: &str) -> Url {
    let mut address = base.clone();
    if let Ok(mut path) = address.path_segments_mut() {
        path.pop_if_empty().extend(["v1beta", "models", &format!("{model}:generateContent")]);
    }
    address
}

/// The JSON body of `call`.
///
/// # Errors
/// None that can be reached: text and numbers are always JSON.
pub(super) fn body(call: &ImageCall) -> Result<String, serde_json::Error> {
    let pictures: usize = call.references.iter().map(|reference| reference.bytes.len() / 3 * 4 + AROUND).sum();
    let mut body = String::with_capacity(pictures + call.prompt.len() + AROUND);
    body.push_str(r#"{"contents":[{"role":"user","parts":[{"text":"#);
    body.push_str(&serde_json::to_string(&call.prompt)?);
    body.push('}');
    for reference in &call.references {
        body.push_str(r#",{"text":""#);
        body.push_str(introduction(reference.mode));
        body.push_str(r#""},{"inlineData":{"mimeType":""#);
        body.push_str(reference.format.mime_type());
        body.push_str(r#"","data":""#);
        data::append(&reference.bytes, &mut body);
        body.push_str(r#""}}"#);
    }
    body.push_str(r#"]}],"generationConfig":"#);
    body.push_str(&serde_json::to_string(&generation_config(call))?);
    body.push('}');
    Ok(body)
}

const fn introduction(mode: ReferenceMode) -> &'static str {
    match mode {
        ReferenceMode::StyleOnly => STYLE_ONLY,
        ReferenceMode::StyleAndComposition => STYLE_AND_COMPOSITION,
    }
}

fn generation_config(call: &ImageCall) -> GenerationConfig {
    let is_sized = !call.model.starts_with(UNSIZED_MODELS);
    GenerationConfig {
        response_modalities: ["TEXT", "IMAGE"],
        image_config: ImageConfig {
            aspect_ratio: call.aspect_ratio.to_string(),
            image_size: is_sized.then(|| call.image_size.as_str()),
        },
        max_output_tokens: call.output_cap,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};
    use ulid::Ulid;

    use super::*;
    use crate::domain::ids::AttemptId;
    use crate::domain::picture::{PictureFormat, ReferenceImage};
    use crate::domain::prices::{EMBEDDED, PriceTable};
    use crate::domain::spec::{AspectRatio, ImageSize};

    fn call(model: &str) -> ImageCall {
        ImageCall {
            attempt: AttemptId::new(Ulid::nil()),
            model: model.to_owned(),
            prompt: "a \"cup\"\non a table".to_owned(),
            variant: 1,
            aspect_ratio: AspectRatio { width: 16, height: 9 },
            image_size: ImageSize::FourK,
            references: Vec::new(),
            output_cap: 4_292,
            max_answer_bytes: 64 << 20,
        }
    }

    fn json_of(call: &ImageCall) -> Value {
        serde_json::from_str(&body(call).unwrap()).unwrap()
    }

    #[test]
    fn references_come_after_the_prompt_each_with_how_it_counts() {
        let reference =
            |format, mode| ReferenceImage { bytes: Bytes::from_static(b"\x00\xff\xfe picture"), format, mode };
        let references = vec![
            reference(PictureFormat::Png, ReferenceMode::StyleOnly),
            reference(PictureFormat::Webp, ReferenceMode::StyleAndComposition),
        ];
        let sent = json_of(&ImageCall { references, ..call("gemini-nano-banana-2.1") });
        assert_eq!(
            sent,
            json!({
                "contents": [{"role": "user", "parts": [
                    {"text": "a \"cup\"\non a table"},
                    {"text": STYLE_ONLY},
                    {"inlineData": {"mimeType": "image/png", "data": "AP/+IHBpY3R1cmU="}},
                    {"text": STYLE_AND_COMPOSITION},
                    {"inlineData": {"mimeType": "image/webp", "data": "AP/+IHBpY3R1cmU="}},
                ]}],
                "generationConfig": {
                    "responseModalities": ["TEXT", "IMAGE"],
                    "imageConfig": {"aspectRatio": "16:9", "imageSize": "4K"},
                    "maxOutputTokens": 4_292,
                },
            })
        );
    }

    #[test]
    fn a_model_with_one_size_is_not_told_it() {
        let sent = json_of(&call("gemini-2.5-flash-image"));
        assert_eq!(sent["generationConfig"]["imageConfig"], json!({"aspectRatio": "16:9"}));
    }

    #[test]
    fn the_model_is_one_part_of_the_address_whatever_the_base_and_the_name() {
        for (base, model, expected) in [
            ("https://a.test", "m-1", "https://a.test/v1beta/models/m-1:generateContent"),
            (
                "http://a.test:81/gateway/",
                "m/../1",
                "http://a.test:81/gateway/v1beta/models/m%2F..%2F1:generateContent",
            ),
        ] {
            assert_eq!(address(&base.parse().unwrap(), model).as_str(), expected);
        }
    }

    #[test]
    fn the_reserve_of_a_reference_has_room_for_its_introduction() {
        let prices = PriceTable::parse(EMBEDDED).unwrap();
        for model in prices.models().filter(|model| model.id.starts_with("gemini")) {
            for introduction in [STYLE_ONLY, STYLE_AND_COMPOSITION] {
                // A text has at most as many tokens as bytes; a picture counts as 1,120 at most.
                assert!(introduction.len() + 1_120 <= model.reference_tokens as usize, "{}", model.id);
            }
        }
    }
}
