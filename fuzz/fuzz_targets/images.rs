//! Any text as an image's reference, and any bytes as a manifest or an index: an error or a value that holds what
//! it promises; never a panic.
#![no_main]

use holdfast_core::image::{ImageReference, Platform};
use holdfast_core::oci::{DOCUMENT_LIMIT, Document};
use libfuzzer_sys::fuzz_target;

fn check_reference(text: &str) {
    if let Ok(reference) = text.parse::<ImageReference>() {
        assert!(reference.tag.is_some() || reference.digest.is_some());
        assert_eq!(reference.to_string().parse::<ImageReference>().ok(), Some(reference));
    }
}

fn check_document(bytes: &[u8], said: Option<&str>) {
    match Document::parse(bytes, said) {
        Ok(Document::Manifest(manifest)) => {
            assert!(manifest.config.size <= DOCUMENT_LIMIT as u64);
            // What is added up must not run over.
            let _: u64 = manifest.blobs().iter().map(|blob| blob.size).sum();
            let _ = manifest.check_image();
        }
        Ok(Document::Index(index)) => {
            if let Err(none) = index.choose(&Platform::of_this_program()) {
                assert!(none.to_string().len() < 2000);
            }
        }
        Err(error) => assert!(error.to_string().len() < 1000),
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        check_reference(text);
    }
    check_document(bytes, None);
    // The first line as what the server said.
    if let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        check_document(&bytes[end + 1..], std::str::from_utf8(&bytes[..end]).ok());
    }
});
