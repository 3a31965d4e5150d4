-- Grain: one question of one training prompt. From which file and which row of its annotation it came, what the teacher
-- said and which reward that earned.
CREATE VIEW ancestry AS
SELECT
    dialogues.run_id,
    dialogues.dataset_id,
    dialogues.dialogue_id,
    merged.number,
    merged.question_id,
    annotations.sub_task,
    annotations.kind,
    annotations.question,
    annotations.answer AS gold,
    dialogues.split,
    annotations.teacher,
    annotations.reasoning,
    annotations.reward,
    annotations.tries,
    annotations.request_key,
    dialogues.prompt,
    dialogues.response,
    samples.sample_id,
    samples.media_path,
    samples.source,
    samples.source_file,
    coalesce(annotations.source_row, samples.source_row) AS source_row,
    samples.source_photograph,
    annotations.dataset_id AS annotations_id,
    samples.dataset_id AS samples_id
FROM dialogues
CROSS JOIN LATERAL (
    SELECT unnest(dialogues.merged_from) AS question_id, unnest(range(1, len(dialogues.merged_from) + 1)) AS number
) AS merged
LEFT JOIN made_from AS from_annotations
    ON from_annotations.dataset_id = dialogues.dataset_id AND from_annotations.input_kind = 'annotations'
LEFT JOIN annotations
    ON annotations.dataset_id = from_annotations.input_dataset_id AND annotations.question_id = merged.question_id
LEFT JOIN made_from AS from_samples
    ON from_samples.dataset_id = annotations.dataset_id AND from_samples.input_kind = 'samples'
LEFT JOIN samples
    ON samples.dataset_id = from_samples.input_dataset_id AND samples.sample_id = dialogues.sample_id;
