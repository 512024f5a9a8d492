//! PyTorch's gradients on the small encoders, to compare others with.

use std::{collections::BTreeMap, fs};

use edge_bundle::Bundle;
use tempfile::TempDir;

use crate::{ENCODERS, Fixture, fixtures, small_bundle};

/// A small encoder, and PyTorch's gradients on it, as `tests/reference/make_gradients.py` wrote them.
pub struct Gradients {
    name: &'static str,
    /// Holds the bundle.
    pub home: TempDir,
    /// The encoder.
    pub bundle: Bundle,
    /// Its texts.
    pub fixture: Fixture,
    /// By kind of task and bias vector the norm of its gradient and three products; under the empty name the loss.
    kinds: BTreeMap<String, BTreeMap<String, Vec<f64>>>,
}

impl Gradients {
    /// What is right of a fixture's texts there: their classes.
    pub const CLASSES: [usize; 4] = [0, 1, 2, 0];
    /// Or their values.
    pub const VALUES: [f32; 4] = [0.5, -1.0, 2.0, 0.0];

    /// Those of every small encoder.
    pub fn all() -> impl Iterator<Item = Gradients> {
        let read = fs::read(fixtures().join("gradients.json")).unwrap();
        let mut all: BTreeMap<String, _> = serde_json::from_slice(&read).unwrap();
        ENCODERS.into_iter().map(move |name| {
            let (home, bundle) = small_bundle(name);
            let kinds = all.remove(name).unwrap_or_else(|| panic!("no gradients of {name}"));
            Gradients { name, home, bundle, fixture: Fixture::named(name), kinds }
        })
    }

    /// Every kind of task that there is for the encoder.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.kinds.keys().map(String::as_str)
    }

    /// Asserts that the loss and all gradients that something (`by`) computes for a kind of task are as expected, and
    /// prints the largest difference: relative to a gradient's norm, or to the largest one where it is zero in
    /// mathematics, as that of a bias that shifts all tokens alike is for spans.
    pub fn compare<'a>(
        &self,
        kind: &str,
        by: &str,
        loss: f64,
        gradients: impl Iterator<Item = (&'a str, Vec<f64>)>,
        bound: f64,
    ) {
        let (what, expected) = (format!("{} {kind} by {by}", self.name), &self.kinds[kind]);
        let due = expected[""][0];
        assert!((loss - due).abs() < 1e-5 * due, "{what}: loss {loss}, expected {due}");
        let norms = expected.iter().filter(|(part, _)| !part.is_empty()).map(|(_, due)| due[0]);
        let largest = norms.fold(0.0, f64::max);
        let (mut worst, mut count) = (0.0f64, 0);
        for (part, gradient) in gradients {
            let due = &expected[part];
            let scale = if due[0] > 1e-12 * largest { due[0] } else { largest };
            for (probe, due_product) in due[1..].iter().enumerate() {
                let vector = Fixture::values(&format!("probe {probe} {part}"), &[gradient.len(), 1]);
                let product: f64 = gradient.iter().zip(&vector).map(|(d, v)| d * f64::from(*v)).sum();
                let length = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
                let error = (product - due_product).abs() / length;
                assert!(error <= bound * scale, "{what} {part}: {product}, expected {due_product}");
                worst = worst.max(error / scale);
            }
            count += 1;
        }
        assert_eq!(count + 1, expected.len(), "{what}: a bias vector is not compared");
        println!("{what}: worst {worst:.1e}");
    }
}
