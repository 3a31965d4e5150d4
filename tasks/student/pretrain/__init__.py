"""How the tiny base that ships in `tasks/student/tiny` was made: from photographs, by measuring them.

    python -m tasks.student.pretrain --photos tasks/media/photographs --photos MORE --work WORK --out tasks/student/tiny

photographs -> pool of degraded crops with what was measured on each -> vision stage (regress the measurements) ->
text stage (answer questions about the measurements) -> a folder that transformers loads. No label of the pipeline and
none of its questions is used: the targets are measurements of the picture, and of its difference from the clean crop.
"""
