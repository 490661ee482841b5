//! Style sheets, scripts and pictures. Each has a name with a hash of its content, so that browsers keep it for good and a new version has
//! another address.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use golectra_protocol::gzip;
use rust_embed::Embed;
use sha2::{Digest as _, Sha256};

use crate::http::fallback;
use crate::middleware::answer::{Permanent, accepts_gzip};

#[derive(Embed)]
#[folder = "assets/"]
struct Files;

/// One asset as it is sent.
struct Asset {
    url: String,
    mime: &'static str,
    content: Bytes,
    /// Where packing makes it smaller.
    packed: Option<Bytes>,
}

/// All of them by their plain names.
static ASSETS: LazyLock<BTreeMap<String, Asset>> = LazyLock::new(|| {
    let mut assets = BTreeMap::new();
    for name in Files::iter() {
        add(&name, &mut assets);
    }
    assets
});

/// Adds an asset and before it the modules that it imports, whose addresses become part of it.
fn add(name: &str, assets: &mut BTreeMap<String, Asset>) {
    let (Some(mime), Some(file)) = (mime(name), Files::get(name)) else { return };
    if assets.contains_key(name) {
        return;
    }
    let mut content = file.data.into_owned();
    if let Some(imported) = is_script(name).then(|| imports(&content)) {
        let mut text = String::from_utf8_lossy(&content).into_owned();
        for module in imported {
            add(&module, assets);
            if let Some(asset) = assets.get(&module) {
                text = text.replace(&format!("\"./{module}\""), &format!("\"{}\"", asset.url));
            }
        }
        content = text.into_bytes();
    }
    let digest = hex(&Sha256::digest(&content)[..6]);
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let packed = gzip::pack(&content);
    let packed = (packed.len() < content.len()).then(|| packed.into());
    let url = format!("/assets/{stem}-{digest}.{extension}");
    assets.insert(name.to_owned(), Asset { url, mime, content: content.into(), packed });
}

fn is_script(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, extension)| extension == "js")
}

/// The modules beside it that a module imports.
fn imports(content: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(content);
    let names = text.split("\"./").skip(1).filter_map(|rest| rest.split('"').next());
    names.filter(|name| is_script(name) && Files::get(name).is_some()).map(str::to_owned).collect()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn mime(name: &str) -> Option<&'static str> {
    match name.rsplit_once('.')?.1 {
        "css" => Some("text/css; charset=utf-8"),
        "js" => Some("text/javascript; charset=utf-8"),
        "svg" => Some("image/svg+xml"),
        "txt" => Some("text/plain; charset=utf-8"),
        _ => None,
    }
}

/// The address of an asset.
///
/// # Panics
///
/// Where there is no such asset: a page that names it is wrong.
pub fn url(name: &str) -> &'static str {
    &ASSETS.get(name).unwrap_or_else(|| panic!("there is no asset {name}")).url
}

/// An asset's address without its hash: what stands before that, and the extension.
fn plain(url: &str) -> Option<(&str, &str)> {
    let (rest, extension) = url.rsplit_once('.')?;
    let (stem, digest) = rest.rsplit_once('-')?;
    (digest.len() == 12 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some((stem, extension))
}

/// GET /assets/:name: an asset by its name with the hash. While servers are replaced, a page of one version may ask a server of another for what belongs to
/// it. That gets this server's version, which is closer to it than nothing, and which nobody keeps under that address.
pub async fn asset(name: Result<Path<String>, PathRejection>, headers: HeaderMap) -> Response {
    let path = name.map(|Path(name)| format!("/assets/{name}")).unwrap_or_default();
    let same = ASSETS.values().find(|asset| asset.url == path);
    let of_other_version = || plain(&path).and_then(|wanted| ASSETS.values().find(|asset| plain(&asset.url) == Some(wanted)));
    let Some(asset) = same.or_else(of_other_version) else { return fallback::not_found().await.into_response() };
    let caching = if same.is_some() { "public, max-age=31536000, immutable" } else { "no-store" };
    let packed = asset.packed.as_ref().filter(|_| accepts_gzip(&headers));
    let mut response = packed.unwrap_or(&asset.content).clone().into_response();
    response.extensions_mut().insert(Permanent);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.mime));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if packed.is_some() {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_another_version_is_known_by_what_stands_before_its_hash() {
        assert_eq!(plain("/assets/style-000000000000.css"), Some(("/assets/style", "css")));
        for none in ["/assets/style.css", "/assets/style-1.css", "/assets/style-000000000000", "/assets/style-00000000000g.css", ""] {
            assert_eq!(plain(none), None, "{none}");
        }
        for asset in ASSETS.values() {
            assert!(plain(&asset.url).is_some(), "{}", asset.url);
        }
    }

    #[test]
    fn every_asset_has_a_type_and_modules_import_what_there_is() {
        assert!(Files::iter().count() >= 2);
        for name in Files::iter() {
            assert!(mime(&name).is_some() && url(&name).starts_with("/assets/"), "{name}");
        }
        for (name, asset) in ASSETS.iter().filter(|(name, _)| is_script(name)) {
            let text = String::from_utf8_lossy(&asset.content);
            assert!(!text.contains("\"./"), "{name} imports a module that there is not, or in a circle");
        }
    }
}
