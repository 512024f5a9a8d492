//! A panels file of three small tensors, and the manifest that it is for.

use std::fs;

use bias_patch::Digest;
use edge_bundle::{ALIGNMENT, Bundle, Element, FileEntry, Frozen, MANIFEST, Manifest, PanelIndex, TensorEntry};

use crate::Place;

/// The number formats of a matrix.
pub const ELEMENTS: [Element; 4] = [Element::F32, Element::I8, Element::I4, Element::F16];

/// A panels file and the manifest that it is for.
pub struct SmallPanels {
    /// The manifest.
    pub manifest: Manifest,
    /// All before the first tensor.
    pub header: Vec<u8>,
    /// Where the header has the checksum of what follows.
    pub checksum: usize,
    /// All from the first tensor on.
    pub data: Vec<u8>,
}

impl SmallPanels {
    /// Those of a bundle, made in `place`, of a matrix of odd dimensions, its scales and a vector.
    pub fn of(element: Element, place: &Place) -> Self {
        let mut manifest: Manifest =
            serde_json::from_str(include_str!("../../../exporter/bundle/tests/golden-v1-bert-f32.json")).unwrap();
        let (mut tensors, mut weights) = (Vec::new(), Vec::new());
        let mut add = |mut entry: TensorEntry, bytes: &[u8]| {
            weights.resize(weights.len().next_multiple_of(ALIGNMENT as usize), 0);
            (entry.offset, entry.sha256) = (weights.len() as u64, Digest::of(bytes));
            weights.extend(bytes);
            tensors.push(entry);
        };
        let entry = |name: &str, shape: &[u64], element, transposed| {
            let (name, shape, sha256) = (name.to_owned(), shape.to_vec(), Digest::of(b""));
            TensorEntry { name, shape, element, transposed, offset: 0, sha256 }
        };
        let matrix = entry("w", &[7, 19], element, true);
        let values: Vec<f32> = (0..7 * 19).map(|at| (at * 31 % 41) as f32 - 20.0).collect();
        let Frozen { bytes, scales } = Frozen::of(&values, &matrix);
        add(matrix.clone(), &bytes);
        if element.is_quantized() {
            add(entry(&TensorEntry::scales_of("w"), &matrix.scales(), Element::F32, false), &scales);
        }
        add(entry("v", &[3], Element::F32, false), &[0; 12]);

        // Other files are read by nobody here, so zeros do.
        for (name, file) in &mut manifest.files {
            let bytes = if name == "weights.bin" { weights.clone() } else { vec![0; file.bytes as usize] };
            place.write(name, &bytes);
            *file = FileEntry { bytes: bytes.len() as u64, sha256: Digest::of(&bytes) };
        }
        let digest = |name: &str| manifest.files[name].sha256;
        manifest.tokenizer = digest("tokenizer.json");
        let digests = [digest("base.bias"), digest("encoder.onnx")];
        manifest.encoder = Manifest::identity(&manifest.config, manifest.tokenizer, digests, &tensors);
        manifest.tensors = tensors;
        place.write(MANIFEST, &serde_json::to_vec(&manifest).unwrap());

        let path = place.path("panels");
        PanelIndex::write(&Bundle::open(&place.path("")).unwrap(), &path).unwrap();
        let begin = PanelIndex::verify(&path, &manifest).unwrap().tensors()[0].offset as usize;
        let mut header = fs::read(path).unwrap();
        let data = header.split_off(begin);
        let sum = crc32fast::hash(&data).to_le_bytes();
        let checksum = header.windows(4).position(|window| window == sum).unwrap();
        SmallPanels { manifest, header, checksum, data }
    }
}
