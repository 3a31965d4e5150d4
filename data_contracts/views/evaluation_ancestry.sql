-- Grain: one answer of one student to one held-out question, and where the question came from.
CREATE VIEW evaluation_ancestry AS
SELECT
    evaluation.run_id,
    evaluation.dataset_id,
    evaluation.student,
    evaluation.completion,
    evaluation.answer,
    evaluation.accuracy,
    ancestry.* EXCLUDE (run_id, dataset_id)
FROM evaluation
JOIN made_from
    ON made_from.dataset_id = evaluation.dataset_id AND made_from.input_kind = 'dialogues'
LEFT JOIN ancestry
    ON ancestry.dataset_id = made_from.input_dataset_id AND ancestry.question_id = evaluation.question_id;
