-- Tables of the lineage, in OpenLineage's words: a job is run, a run reads input datasets and writes output datasets.
-- Times are UTC. Ids are content digests (sha256 cut to 32 hex digits), so that recording twice records once.

-- Grain: one version of a stage's code.
CREATE TABLE IF NOT EXISTS job (
    job_id VARCHAR PRIMARY KEY,    -- digest of name and source_digest
    name VARCHAR NOT NULL,         -- stage: ingest, annotate, compress, sft, mine, grpo, evaluate, promote
    source_digest VARCHAR NOT NULL -- of the source that shapes the stage's output
);

-- Grain: one run of the pipeline (parent_run_id is null) or of one stage in it.
CREATE TABLE IF NOT EXISTS run (
    run_id VARCHAR PRIMARY KEY,
    parent_run_id VARCHAR,         -- the pipeline's run a stage's run belongs to
    name VARCHAR NOT NULL,         -- the configuration's name, or the stage
    job_id VARCHAR,                -- null for a pipeline's run and for a cached stage
    state VARCHAR NOT NULL,        -- running, complete, cached, failed, cancelled
    attempts INTEGER NOT NULL,     -- a retry is another attempt of the same run
    started_at TIMESTAMP NOT NULL,
    ended_at TIMESTAMP,
    seconds DOUBLE,                -- spent in all attempts
    reason VARCHAR,                -- why it failed
    reused_run_id VARCHAR,         -- of a cached stage: the stage's run that made what was reused
    mlflow_run_id VARCHAR,
    mlflow_url VARCHAR,
    seed BIGINT,
    config JSON,                   -- of a pipeline's run: the whole configuration
    facts JSON                     -- numbers and short words the stage noted
);

-- Grain: one content. The first run that made it is its maker.
CREATE TABLE IF NOT EXISTS dataset (
    dataset_id VARCHAR PRIMARY KEY, -- digest of the content; MLflow shows the same
    kind VARCHAR NOT NULL,          -- samples, annotations, dialogues, difficulty, rollouts, evaluation, student, ..
    num_rows BIGINT NOT NULL,
    num_bytes BIGINT NOT NULL,
    run_id VARCHAR,                 -- its maker, null for what came from outside
    recorded_at TIMESTAMP NOT NULL
);

-- Grain: one dataset read by one run.
CREATE TABLE IF NOT EXISTS input (
    run_id VARCHAR NOT NULL,
    name VARCHAR NOT NULL,          -- as the stage calls it
    dataset_id VARCHAR NOT NULL,
    uri VARCHAR NOT NULL,
    PRIMARY KEY (run_id, name)
);

-- Grain: one dataset written, or reused, by one run.
CREATE TABLE IF NOT EXISTS output (
    run_id VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    dataset_id VARCHAR NOT NULL,
    uri VARCHAR NOT NULL,
    PRIMARY KEY (run_id, kind)
);

-- Grain: one finding on one row that was left out of a published dataset.
CREATE TABLE IF NOT EXISTS quarantined (
    run_id VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    row_id VARCHAR NOT NULL,
    column_name VARCHAR,
    expectation VARCHAR,            -- null where the stage itself left the row out
    value VARCHAR,
    reason VARCHAR NOT NULL,
    uri VARCHAR NOT NULL            -- Parquet that holds the rows
);
