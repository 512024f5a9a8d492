//! Values of a task that only some kinds have, as they follow the fields that every header has.
//!
//! In: the [`Fields`] of a task, or the bytes after a header's last field. Out: those bytes, or the fields. Refused:
//! settings twice or out of order, a default that is written out, and settings that the version does not have. Whether
//! a setting suits the kind is checked with the task.

use serde::{Deserialize, Serialize};

use crate::{Error, Result, kind::Fields};

/// The first version with settings other than the answer's length.
pub(crate) const FIRST_WITH_SETTINGS: u16 = 3;

/// One value. A setting's number in a file is its place here, and never changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Setting {
    MaxAnswerLength(u32),
    Thresholds(Vec<f32>),
    Sigmoid,
    Dimensions(u32),
    NotNormalized,
    Prompts(Vec<(String, String)>),
    NoAnswer(f32),
}

impl Setting {
    fn number(&self) -> u8 {
        match self {
            Setting::MaxAnswerLength(_) => 0,
            Setting::Thresholds(_) => 1,
            Setting::Sigmoid => 2,
            Setting::Dimensions(_) => 3,
            Setting::NotNormalized => 4,
            Setting::Prompts(_) => 5,
            Setting::NoAnswer(_) => 6,
        }
    }
}

/// The settings of a task, in the order of their numbers.
fn settings(fields: &Fields) -> Vec<Setting> {
    let Fields {
        labels: _,
        pooling: _,
        max_answer_length,
        thresholds,
        sigmoid,
        dimensions,
        normalize,
        prompts,
        no_answer,
    } = fields;
    let prompts = prompts.as_ref().map(|prompts| prompts.iter().map(|(n, p)| (n.clone(), p.clone())).collect());
    let each = [
        max_answer_length.map(Setting::MaxAnswerLength),
        thresholds.clone().map(Setting::Thresholds),
        sigmoid.and_then(|sigmoid| sigmoid.then_some(Setting::Sigmoid)),
        dimensions.map(Setting::Dimensions),
        normalize.and_then(|normalize| (!normalize).then_some(Setting::NotNormalized)),
        prompts.map(Setting::Prompts),
        no_answer.map(Setting::NoAnswer),
    ];
    each.into_iter().flatten().collect()
}

/// Whether the settings need [`FIRST_WITH_SETTINGS`].
pub(crate) fn need_settings(fields: &Fields) -> bool {
    settings(fields).iter().any(|setting| !matches!(setting, Setting::MaxAnswerLength(_)))
}

/// What follows the header's last field.
///
/// # Errors
/// When postcard fails, which it does on none of these values.
pub(crate) fn to_bytes(fields: &Fields, version: u16) -> Result<Vec<u8>> {
    let failed = |e| Error::field("header", "values postcard can write", e);
    if version >= FIRST_WITH_SETTINGS {
        return postcard::to_stdvec(&settings(fields)).map_err(failed);
    }
    // A field that most tasks leave out takes no byte of their headers.
    fields.max_answer_length.map_or(Ok(Vec::new()), |length| postcard::to_stdvec(&length).map_err(failed))
}

/// Puts what follows the header's last field into `fields`.
///
/// # Errors
/// When the bytes are not settings of this version.
pub(crate) fn read(bytes: &[u8], version: u16, fields: &mut Fields) -> Result<()> {
    let wrong = |e: postcard::Error| Error::field("header", "fields as FORMAT.md lists them", e);
    if version < FIRST_WITH_SETTINGS {
        if !bytes.is_empty() {
            fields.max_answer_length = Some(postcard::from_bytes(bytes).map_err(wrong)?);
        }
        return Ok(());
    }
    let found: Vec<Setting> = postcard::from_bytes(bytes).map_err(wrong)?;
    if let Some(pair) = found.windows(2).find(|pair| pair[0].number() >= pair[1].number()) {
        let expected = format!("after {}, each once and in order", pair[0].number());
        return Err(Error::field(format!("setting {}", pair[1].number()), expected, "here"));
    }
    for setting in found {
        match setting {
            Setting::MaxAnswerLength(length) => fields.max_answer_length = Some(length),
            Setting::Thresholds(thresholds) => fields.thresholds = Some(thresholds),
            Setting::Sigmoid => fields.sigmoid = Some(true),
            Setting::Dimensions(dimensions) => fields.dimensions = Some(dimensions),
            Setting::NotNormalized => fields.normalize = Some(false),
            Setting::NoAnswer(threshold) => fields.no_answer = Some(threshold),
            Setting::Prompts(prompts) => {
                if let Some(pair) = prompts.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
                    return Err(Error::field(format!("prompt {:?}", pair[1].0), "names in order, each once", "here"));
                }
                fields.prompts = Some(prompts.into_iter().collect());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number that errors give is the one in the file.
    #[test]
    fn numbers_are_those_that_files_have() {
        let all = Fields {
            max_answer_length: Some(1),
            thresholds: Some(vec![0.5]),
            sigmoid: Some(true),
            dimensions: Some(1),
            normalize: Some(false),
            prompts: Some([("a".to_owned(), "b".to_owned())].into()),
            no_answer: Some(0.5),
            ..Fields::default()
        };
        let settings = settings(&all);
        assert_eq!(settings.len(), 7);
        for setting in &settings {
            assert_eq!(postcard::to_stdvec(setting).unwrap()[0], setting.number());
        }
        let mut read_back = Fields::default();
        read(&to_bytes(&all, FIRST_WITH_SETTINGS).unwrap(), FIRST_WITH_SETTINGS, &mut read_back).unwrap();
        assert_eq!(read_back, all);
    }

    #[test]
    fn settings_out_of_order_are_refused() {
        let refused = |settings: &[Setting]| {
            let bytes = postcard::to_stdvec(settings).unwrap();
            read(&bytes, FIRST_WITH_SETTINGS, &mut Fields::default()).unwrap_err().to_string()
        };
        assert!(refused(&[Setting::Dimensions(3), Setting::Sigmoid]).contains("setting 2"));
        assert!(refused(&[Setting::Sigmoid, Setting::Sigmoid]).contains("each once"));
        let twice = vec![("a".to_owned(), "b".to_owned()), ("a".to_owned(), "c".to_owned())];
        assert!(refused(&[Setting::Prompts(twice)]).contains("prompt \"a\""));
    }
}
