//! By what an encoder with rotary positions rotates queries and keys.
//!
//! In: `config.json`, as transformers 4 and 5 and the models' own code spell it. Out: the bases of its angles, and which
//! layers see near tokens alone. Refused: scaled rotations other than NTK's, and rotations of parts of a head.

use serde_json::Value;

use crate::{Checkpoint, Error, Result, error::content};

/// By what queries and keys are rotated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotation {
    /// The base of the angles.
    pub theta: f64,
    /// The base in layers that see near tokens alone.
    pub local_theta: f64,
    /// The factor of NTK scaling; 1 where there is none.
    pub ntk_factor: f64,
    /// How many tokens to each side such layers see, and every how many layers one sees all; none where all do.
    pub window: Option<[u32; 2]>,
}

/// By what a checkpoint of ModernBERT, NomicBERT or GTE rotates.
///
/// # Errors
/// When it is of another family, or rotates in another way.
pub fn rotation(checkpoint: &Checkpoint) -> Result<Rotation> {
    match checkpoint.config().get("model_type").and_then(Value::as_str) {
        Some("modernbert") => modernbert(checkpoint),
        Some("nomic_bert") => nomic(checkpoint),
        Some("gte" | "new") => gte(checkpoint),
        other => Err(refused(checkpoint, "model_type", "modernbert, nomic_bert, gte or new", other.unwrap_or("none"))),
    }
}

/// The same base in all layers, which see all tokens.
fn plain(theta: f64) -> Rotation {
    Rotation { theta, local_theta: theta, ntk_factor: 1.0, window: None }
}

/// The bases of its angles, and which layers see near tokens alone.
fn modernbert(checkpoint: &Checkpoint) -> Result<Rotation> {
    let config = checkpoint.config();
    let number = |pointer: &str| config.pointer(pointer).filter(|value| !value.is_null());
    // Two ways to say the same: transformers 4 and 5.
    for place in ["rope_parameters", "rope_scaling"] {
        // For each kind of layer, or flat for both.
        let Some(fields) = number(&format!("/{place}")).and_then(Value::as_object) else { continue };
        let is_kind = |name: &str| ["full_attention", "sliding_attention"].contains(&name);
        let of_kinds = fields.iter().filter(|(name, _)| is_kind(name)).filter_map(|(_, fields)| fields.as_object());
        let flat = fields.iter().filter(|(name, _)| !is_kind(name));
        for (name, found) in of_kinds.flatten().chain(flat).filter(|(_, found)| !found.is_null()) {
            let plain = match name.as_str() {
                "rope_type" | "type" => found == "default",
                "rope_theta" => place == "rope_parameters",
                _ => false,
            };
            if !plain {
                return Err(refused(checkpoint, &format!("{place} {name}"), "plain rotary positions", found));
            }
        }
    }
    let theta = |new: &str, old: &str| -> Result<Option<f64>> {
        let found = number(&format!("/rope_parameters/{new}/rope_theta")).or_else(|| number(&format!("/{old}")));
        let as_number = |found: &Value| found.as_f64().ok_or_else(|| refused(checkpoint, old, "a number", found));
        found.map(as_number).transpose()
    };
    let theta_of_all = theta("full_attention", "global_rope_theta")?.unwrap_or(160_000.0);
    // A null says that near layers have the base of the others.
    let null = config.get("local_rope_theta").is_some_and(Value::is_null);
    let default = if null { theta_of_all } else { 10_000.0 };
    let local_theta = theta("sliding_attention", "local_rope_theta")?.unwrap_or(default);
    let whole = |field: &str, default: u64| match number(&format!("/{field}")) {
        None => Ok(default),
        Some(found) => found.as_u64().ok_or_else(|| refused(checkpoint, field, "a whole number", found)),
    };
    let small = |field: &str, default: u64| {
        let found = whole(field, default)?;
        u32::try_from(found).map_err(|_| refused(checkpoint, field, "a number below 2^32", found))
    };
    let (reach, global_every) = (small("local_attention", 128)? / 2, small("global_attn_every_n_layers", 3)?);
    if let Some(types) = number("/layer_types").and_then(Value::as_array) {
        for (layer, found) in types.iter().enumerate() {
            let due = match layer.is_multiple_of(global_every.max(1) as usize) {
                true => "full_attention",
                false => "sliding_attention",
            };
            if found != due {
                return Err(refused(checkpoint, &format!("layer_types {layer}"), due, found));
            }
        }
    }
    Ok(Rotation { theta: theta_of_all, local_theta, ntk_factor: 1.0, window: Some([reach, global_every]) })
}

/// The base of its angles, which may be written twice.
fn nomic(checkpoint: &Checkpoint) -> Result<Rotation> {
    plain_rotary(checkpoint)?;
    let required = [
        ("rotary_emb_fraction", Value::from(1.0)),
        ("rotary_emb_interleaved", Value::from(false)),
        ("rotary_scaling_factor", Value::Null),
        ("rotary_emb_scale_base", Value::Null),
    ];
    required.into_iter().try_for_each(|(field, due)| check(checkpoint, field, &due))?;
    let (new, own) =
        (number_at(checkpoint, "/rope_parameters/rope_theta")?, number_at(checkpoint, "/rotary_emb_base")?);
    let theta = match (new, own) {
        (Some(new), Some(own)) if new != own => {
            return Err(refused(checkpoint, "rotary_emb_base", &format!("{new}, as rope_theta says"), own));
        }
        _ => new.or(own).ok_or_else(|| refused(checkpoint, "rotary_emb_base", "a number", "none"))?,
    };
    Ok(plain(theta))
}

/// The base of its angles, and the factor by which NTK scaling stretches them.
fn gte(checkpoint: &Checkpoint) -> Result<Rotation> {
    let missing = |field: &str| refused(checkpoint, field, "a number", "none");
    check(checkpoint, "position_embedding_type", &Value::from("rope"))?;
    let config = checkpoint.config();
    let old = number_at(checkpoint, "/rope_theta")?;
    if config.get("model_type").and_then(Value::as_str) != Some("new") {
        plain_rotary(checkpoint)?;
        let theta = number_at(checkpoint, "/rope_parameters/rope_theta")?;
        return Ok(plain(theta.or(old).unwrap_or(160_000.0)));
    }
    // As its own code reads it.
    let rotary = plain(old.ok_or_else(|| missing("rope_theta"))?);
    let Some(scaling) = config.get("rope_scaling").filter(|scaling| !scaling.is_null()) else {
        return Ok(rotary);
    };
    for (field, due) in [("type", Value::from("ntk")), ("mixed_b", Value::Null)] {
        let found = scaling.get(field).unwrap_or(&Value::Null);
        if *found != due {
            return Err(refused(checkpoint, &format!("rope_scaling {field}"), &due.to_string(), found));
        }
    }
    let factor = number_at(checkpoint, "/rope_scaling/factor")?;
    Ok(Rotation { ntk_factor: factor.ok_or_else(|| missing("rope_scaling factor"))?, ..rotary })
}

/// Refuses a field that has another value than is due; it may be missing.
fn check(checkpoint: &Checkpoint, field: &str, due: &Value) -> Result<()> {
    let found = checkpoint.config().get(field).filter(|found| !found.is_null());
    // 1 is 1.0 too.
    let is_same = |found: &Value| found == due || found.as_f64().is_some_and(|number| Some(number) == due.as_f64());
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match found.filter(|found| !is_same(found)) {
        Some(found) => Err(refused(checkpoint, field, &text(due), text(found))),
        None => Ok(()),
    }
}

/// A number at a place in `config.json`; none where there is nothing.
fn number_at(checkpoint: &Checkpoint, pointer: &str) -> Result<Option<f64>> {
    match checkpoint.config().pointer(pointer).filter(|value| !value.is_null()) {
        None => Ok(None),
        Some(found) => match found.as_f64() {
            Some(number) => Ok(Some(number)),
            None => Err(refused(checkpoint, &pointer[1..].replace('/', " "), "a number", found)),
        },
    }
}

/// Refuses rotary positions other than the plain ones, in `rope_parameters` (transformers 5) and `rope_scaling` (4).
fn plain_rotary(checkpoint: &Checkpoint) -> Result<()> {
    for place in ["rope_parameters", "rope_scaling"] {
        for name in ["rope_type", "type"] {
            let kind = checkpoint.config().pointer(&format!("/{place}/{name}")).and_then(Value::as_str);
            if let Some(kind) = kind.filter(|kind| *kind != "default") {
                return Err(refused(checkpoint, &format!("{place} {name}"), "default", kind));
            }
        }
    }
    Ok(())
}

fn refused(checkpoint: &Checkpoint, field: &str, expected: &str, found: impl ToString) -> Error {
    content(&checkpoint.path().join("config.json"), field, expected, found)
}
