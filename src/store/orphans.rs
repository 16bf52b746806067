//! Uploads in parts that never ended: a killed process leaves them behind, nobody sees them, and S3 and Google bill their
//! parts until they are aborted.
//!
//! Azure has nothing to abort: blocks that were sent but never put into a blob expire after a week, and are not listed.
//! Local stores have staging files instead ([`crate::store::objects::sweep_staging`]).

use std::time::Duration;

use object_store::client::{HttpClient, HttpRequest, HttpRequestBody};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::runtime::clock::Clock;
use crate::store::backend::UploadLister;
use crate::store::dates::xml_date;
use crate::store::{self, Location};

/// How long a signed request for a page of the list holds.
const SIGNATURE_HOLDS: Duration = Duration::from_secs(900);
/// Pages that are read at most: a thousand uploads each.
const PAGES_MAX: usize = 10_000;

/// An upload in parts that has begun and not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenUpload {
    /// The object that it would make: its path in the store.
    pub object: String,
    /// The store's name of the upload.
    pub id: String,
    /// When it began, since 1970-01-01 UTC, by the store's clock.
    pub initiated: Duration,
    /// How long ago that was, by the store's clock.
    pub age: Duration,
}

/// All uploads below `location` that have begun and not ended, live ones too, oldest first.
pub async fn list(location: &Location) -> Result<Vec<OpenUpload>> {
    let Some(lister) = &location.backend.uploads else { return Ok(Vec::new()) };
    let failed = |e| store::error("list the uploads below", &location.shown, e);
    let mut found = Vec::new();
    let mut marker = None;
    for _ in 0..PAGES_MAX {
        let page = location.backend.retries.persist(|| lister.page(&location.path, marker.as_ref()));
        let page = page.await.map_err(failed)?;
        let now = location.now(&Clock::system());
        for upload in page.uploads {
            // prefixes are of text: `acts` is a prefix of `acts2/...` too
            let below = Path::parse(&upload.key).is_ok_and(|path| path.prefix_matches(&location.path));
            if !below {
                continue;
            }
            // one whose age cannot be read is as old as none: nobody aborts it
            let initiated =
                xml_date(&upload.initiated).and_then(|s| Duration::try_from_secs_f64(s).ok()).unwrap_or(now);
            let age = now.saturating_sub(initiated);
            found.push(OpenUpload { object: upload.key, id: upload.upload_id, initiated, age });
        }
        match (page.is_truncated, page.next_key_marker) {
            (true, Some(key)) => marker = Some((key, page.next_upload_id_marker.unwrap_or_default())),
            _ => {
                found.sort_by(|a, b| a.initiated.cmp(&b.initiated).then_with(|| a.object.cmp(&b.object)));
                return Ok(found);
            }
        }
    }
    Err(Error::data(format!("the list of uploads below `{}` does not end", location.shown)))
}

/// Abort an upload: its parts are deleted, and if somebody still sends some, that fails. One that is gone is fine.
pub async fn abort(location: &Location, upload: &OpenUpload) -> Result<()> {
    let Some(lister) = &location.backend.uploads else { return Ok(()) };
    let path = Path::parse(&upload.object).map_err(|e| store::error("abort", &upload.object, e.into()))?;
    let aborted = location.backend.retries.persist(|| async {
        match lister {
            UploadLister::S3(store, _) => store.abort_multipart(&path, &upload.id).await,
            UploadLister::Gcs { store, .. } => store.abort_multipart(&path, &upload.id).await,
        }
    });
    match aborted.await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(store::error("abort the upload of", &upload.object, error)),
    }
}

/// Abort all uploads below `location` that began at least `grace` ago; gives those that were aborted.
pub async fn abort_older_than(location: &Location, grace: Duration) -> Result<Vec<OpenUpload>> {
    let mut aborted = Vec::new();
    for upload in list(location).await?.into_iter().filter(|upload| upload.age >= grace) {
        abort(location, &upload).await?;
        aborted.push(upload);
    }
    Ok(aborted)
}

/// `ListMultipartUploadsResult`, of S3 and of Google's XML API.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Page {
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_upload_id_marker: Option<String>,
    #[serde(rename = "Upload")]
    uploads: Vec<Listed>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Listed {
    key: String,
    upload_id: String,
    initiated: String,
}

impl UploadLister {
    async fn page(&self, prefix: &Path, marker: Option<&(String, String)>) -> object_store::Result<Page> {
        let mut query = vec![("uploads", ""), ("prefix", prefix.as_ref())];
        if let Some((key, id)) = marker {
            query.extend([("key-marker", key.as_str()), ("upload-id-marker", id.as_str())]);
        }
        match self {
            Self::S3(store, client) => {
                let options = SignedUrlOptions::default().with_query(query);
                let get = HttpRequest::new(HttpRequestBody::empty()).method().clone();
                let url = store.signed_url_opts(get, &Path::default(), SIGNATURE_HOLDS, &options).await?;
                ask(client, url.as_str(), None).await
            }
            Self::Gcs { store, bucket_url, client } => {
                let url = url::Url::parse_with_params(bucket_url, query).map_err(|e| failed(e.into()))?;
                let bearer = store.credentials().get_credential().await?.bearer.clone();
                ask(client, url.as_str(), Some(bearer).filter(|bearer| !bearer.is_empty())).await
            }
        }
    }
}

async fn ask(client: &HttpClient, url: &str, bearer: Option<String>) -> object_store::Result<Page> {
    let mut request = HttpRequest::new(HttpRequestBody::empty());
    *request.uri_mut() = url.parse().map_err(|_| failed("the bucket's address is no URL".into()))?;
    if let Some(bearer) = bearer {
        let value = format!("Bearer {bearer}").parse().map_err(|_| failed("the credential is no header".into()))?;
        request.headers_mut().insert("authorization", value);
    }
    let answer = client.execute(request).await.map_err(|e| failed(e.into()))?;
    let status = answer.status();
    let body = answer.into_body().bytes().await.map_err(|e| failed(e.into()))?;
    let text = String::from_utf8_lossy(&body);
    if !status.is_success() {
        return Err(failed(format!("Server returned non-2xx status code: {status}: {text}").into()));
    }
    quick_xml::de::from_str(&text).map_err(|e| failed(e.into()))
}

fn failed(source: Box<dyn std::error::Error + Send + Sync>) -> object_store::Error {
    object_store::Error::Generic { store: "uploads", source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_read() {
        let page: Page = quick_xml::de::from_str(
            r#"<?xml version="1.0"?><ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
            <Bucket>b</Bucket><NextKeyMarker>k</NextKeyMarker><NextUploadIdMarker>i</NextUploadIdMarker>
            <IsTruncated>true</IsTruncated>
            <Upload><Key>acts/x</Key><UploadId>id1</UploadId><Initiated>2010-11-10T20:48:33.000Z</Initiated>
              <Owner><ID>o</ID></Owner><StorageClass>STANDARD</StorageClass></Upload>
            <Upload><Key>acts/y</Key><UploadId>id2</UploadId><Initiated>?</Initiated></Upload>
            </ListMultipartUploadsResult>"#,
        )
        .unwrap();
        assert!(page.is_truncated && page.uploads.len() == 2);
        assert_eq!((page.uploads[0].key.as_str(), page.uploads[1].upload_id.as_str()), ("acts/x", "id2"));
        assert_eq!(page.next_key_marker.as_deref(), Some("k"));
        let empty: Page = quick_xml::de::from_str("<ListMultipartUploadsResult></ListMultipartUploadsResult>").unwrap();
        assert!(!empty.is_truncated && empty.uploads.is_empty());
    }
}
