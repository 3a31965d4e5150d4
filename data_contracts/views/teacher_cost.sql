-- Grain: one teacher in one annotation. What its reasoning cost, and how much of it agreed with the gold.
CREATE VIEW teacher_cost AS
SELECT
    run_id,
    dataset_id,
    teacher,
    count(*) AS num_asked,
    count(*) FILTER (WHERE reasoning IS NOT NULL) AS num_accepted,
    sum(tries) AS num_tries,
    avg(reward) AS mean_reward,
    sum(prompt_tokens) AS prompt_tokens,
    sum(completion_tokens) AS completion_tokens,
    sum(cost) AS cost
FROM annotations
WHERE tries > 0
GROUP BY run_id, dataset_id, teacher
ORDER BY run_id, teacher;
