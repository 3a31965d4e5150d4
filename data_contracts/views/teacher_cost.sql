-- Grain: one teacher in one annotation. What its reasoning cost, and how much of it agreed with the gold. The cost of
-- the rows leaves out questions that were rejected and dropped; the cost of the stage has them, and of it that run paid
-- what was not in the journal.
CREATE VIEW teacher_cost AS
SELECT
    annotations.run_id,
    annotations.dataset_id,
    annotations.teacher,
    count(*) AS num_asked,
    count(*) FILTER (WHERE annotations.reasoning IS NOT NULL) AS num_accepted,
    sum(annotations.tries) AS num_tries,
    avg(annotations.reward) AS mean_reward,
    sum(annotations.prompt_tokens) AS prompt_tokens,
    sum(annotations.completion_tokens) AS completion_tokens,
    sum(annotations.cost) AS cost,
    any_value((stage.facts ->> 'cost')::DOUBLE) AS cost_of_stage,
    any_value((stage.facts ->> 'spent')::DOUBLE) AS paid_by_run
FROM annotations
LEFT JOIN run AS stage ON stage.parent_run_id = annotations.run_id AND stage.name = 'annotate'
WHERE annotations.tries > 0
GROUP BY annotations.run_id, annotations.dataset_id, annotations.teacher
ORDER BY annotations.run_id, annotations.teacher;
