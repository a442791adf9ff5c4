//! The server against the real clients: it can only help the other tests if it is what they take it for.

use std::time::Duration;

use google_cloud_gax::paginator::ItemPaginator as _;
use google_cloud_storage::builder::storage::SignedUrlBuilder;
use google_cloud_storage::model::Object;
use google_cloud_storage::model::compose_object_request::SourceObject;
use google_cloud_storage::model_ext::ReadRange;
use orchestrator::gcs::{Gcs, Meaning, Signing, bucket_path, meaning};

use super::{Call, Fault, Google, ServiceAccount};

const BUCKET: &str = "bucket";

async fn connect(google: &Google) -> Gcs {
    Gcs::connect(Some(google.address()), None).await.unwrap()
}

async fn write(gcs: &Gcs, name: &str, text: &'static str) -> Result<i64, google_cloud_storage::Error> {
    let write = gcs.data.write_object(bucket_path(BUCKET), name, text).set_if_generation_match(0);
    Ok(Box::pin(write.set_metadata([("k", "v")]).send_buffered()).await?.generation)
}

async fn read(gcs: &Gcs, name: &str, range: ReadRange) -> Result<String, google_cloud_storage::Error> {
    let request = gcs.data.read_object(bucket_path(BUCKET), name).set_read_range(range);
    let mut response = Box::pin(request.send()).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = response.next().await.transpose()? {
        bytes.extend_from_slice(&piece);
    }
    Ok(String::from_utf8(bytes).unwrap())
}

async fn compose(gcs: &Gcs, sources: [&str; 2], generation: i64) -> Result<i64, google_cloud_storage::Error> {
    let sources = sources.map(|name| SourceObject::new().set_name(name));
    let to = Object::new().set_bucket(bucket_path(BUCKET)).set_name("whole").set_metadata([("count", "2")]);
    let compose = gcs.control.compose_object().set_destination(to).set_source_objects(sources);
    Ok(compose.set_if_generation_match(generation).send().await?.generation)
}

#[tokio::test]
async fn bytes_are_written_once_and_read_in_part() {
    let google = Google::start().await;
    let gcs = connect(&google).await;
    write(&gcs, "a/b c", "0123456789").await.unwrap();
    let again = write(&gcs, "a/b c", "0123456789").await.unwrap_err();
    assert_eq!(meaning(&again), Meaning::Refused);
    assert_eq!(read(&gcs, "a/b c", ReadRange::all()).await.unwrap(), "0123456789");
    assert_eq!(read(&gcs, "a/b c", ReadRange::segment(3, 4)).await.unwrap(), "3456");
    assert_eq!(read(&gcs, "a/b c", ReadRange::segment(8, 4)).await.unwrap(), "89");
    let behind = read(&gcs, "a/b c", ReadRange::segment(10, 4)).await.unwrap_err();
    assert_eq!(behind.http_status_code(), Some(416));
    let absent = read(&gcs, "a/c", ReadRange::all()).await.unwrap_err();
    assert_eq!(meaning(&absent), Meaning::Absent);
}

#[tokio::test]
async fn objects_are_composed_on_condition_listed_and_deleted() {
    let google = Google::start().await;
    let gcs = connect(&google).await;
    write(&gcs, "one", "1").await.unwrap();
    write(&gcs, "two", "2").await.unwrap();
    let first = compose(&gcs, ["one", "two"], 0).await.unwrap();
    assert_eq!(meaning(&compose(&gcs, ["one", "two"], 0).await.unwrap_err()), Meaning::Refused);
    let second = compose(&gcs, ["whole", "one"], first).await.unwrap();
    assert!(second > first);
    assert_eq!(read(&gcs, "whole", ReadRange::all()).await.unwrap(), "121");
    assert_eq!(meaning(&compose(&gcs, ["whole", "three"], second).await.unwrap_err()), Meaning::Absent);
    let get = gcs.control.get_object().set_bucket(bucket_path(BUCKET)).set_object("whole");
    let whole = get.send().await.unwrap();
    assert_eq!((whole.generation, whole.size, whole.metadata["count"].as_str()), (second, 3, "2"));
    let list = gcs.control.list_objects().set_parent(bucket_path(BUCKET)).set_prefix("").set_page_size(2);
    let mut items = list.by_item();
    let mut names = Vec::new();
    while let Some(object) = items.next().await {
        names.push(object.unwrap().name);
    }
    assert_eq!(names, ["one", "two", "whole"]);
    let delete = || gcs.control.delete_object().set_bucket(bucket_path(BUCKET)).set_object("one");
    delete().send().await.unwrap();
    assert_eq!(meaning(&delete().send().await.unwrap_err()), Meaning::Absent);
}

#[tokio::test]
async fn what_goes_wrong_is_seen_and_tried_again() {
    let google = Google::start().await;
    let gcs = connect(&google).await;
    google.faults().script(Call::Upload, Fault::Unavailable);
    google.faults().script(Call::Upload, Fault::LostBefore);
    write(&gcs, "a", "1").await.unwrap();
    assert_eq!(google.faults().calls(Call::Upload), 3);
    // It was done, and nobody was told: the library tries again, and is told that it is there.
    google.faults().script(Call::Upload, Fault::LostAfter);
    let unsure = write(&gcs, "b", "2").await.unwrap_err();
    assert_eq!(meaning(&unsure), Meaning::Refused);
    assert_eq!(read(&gcs, "b", ReadRange::all()).await.unwrap(), "2");
    google.faults().script(Call::Compose, Fault::TooFast);
    google.faults().script(Call::Compose, Fault::LostAfter);
    assert_eq!(meaning(&compose(&gcs, ["a", "b"], 0).await.unwrap_err()), Meaning::Refused);
    assert_eq!(read(&gcs, "whole", ReadRange::all()).await.unwrap(), "12");
    google.faults().script(Call::Upload, Fault::WrongChecksum);
    assert!(write(&gcs, "c", "3").await.unwrap_err().is_serialization());
    google.faults().script(Call::Read, Fault::WrongChecksum);
    assert!(read(&gcs, "a", ReadRange::all()).await.unwrap_err().is_deserialization());
    google.objects().one_change_per = Some(Duration::from_mins(10));
    let too_fast = tokio::time::timeout(Duration::from_millis(300), compose(&gcs, ["a", "b"], 3)).await;
    assert!(too_fast.is_err() && google.objects().too_fast > 0);
}

#[tokio::test]
async fn a_signed_link_works_as_it_was_signed_and_until_it_is_over() {
    let account = ServiceAccount::generate();
    let google = Google::start_for(Some(account.clone())).await;
    let gcs = Gcs::connect(Some(google.address()), Some(&account.key_file)).await.unwrap();
    let Signing::Key(signer) = &gcs.signing else { panic!("{:?}", gcs.signing) };
    google.objects().put(BUCKET, "a/b~c d.png", "picture");
    let builder = SignedUrlBuilder::for_object(bucket_path(BUCKET), "a/b~c d.png");
    let builder = builder.with_endpoint(format!("http://{}", google.address()));
    let builder = builder.with_expiration(Duration::from_mins(10));
    let builder = builder.with_query_param("response-content-disposition", "inline; filename=\"a b~.png\"");
    let url = builder.sign_with(signer).await.unwrap();
    let status = async |url: &str| reqwest::get(url).await.unwrap().status().as_u16();
    let good = reqwest::get(&url).await.unwrap();
    assert_eq!(good.headers()["content-disposition"], "inline; filename=\"a b~.png\"");
    assert_eq!((good.status().as_u16(), good.text().await.unwrap().as_str()), (200, "picture"));
    google.objects().put(BUCKET, "a/other.png", "another");
    for (from, to) in [
        ("b~c%20d.png", "other.png"),
        ("X-Goog-Expires=600", "X-Goog-Expires=601"),
        ("inline", "attachment"),
        ("X-Goog-Date=2", "X-Goog-Date=3"),
    ] {
        let altered = url.replacen(from, to, 1);
        assert_ne!(altered, url, "{from}");
        assert_eq!(status(&altered).await, 403, "{to}");
    }
    assert_eq!(status(url.split("&X-Goog-Signature").next().unwrap()).await, 403);
    assert_eq!(status(url.split('?').next().unwrap()).await, 403);
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    google.set_time(now + 599 - 60);
    assert_eq!(status(&url).await, 200);
    google.set_time(now + 601);
    assert_eq!(status(&url).await, 400);
}
