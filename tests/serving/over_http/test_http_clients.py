"""The clients people have: `openai` for speech, `libretranslatepy` for texts."""

import urllib.error

import numpy as np
import openai
import pytest
import torch
from libretranslatepy import LibreTranslateAPI

import deed
from deed.pipelines.subtitles import clock
from over_http.conftest import RATE, noise


@pytest.fixture(scope="module")
def client(served):
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0)


@pytest.fixture(scope="module")
def transcribe(loaded):
    served = loaded.find("whisper-tiny", ())
    return deed.pipeline("transcribe", served.model, processor=served.processor)


def sound(seconds, seed=0):
    return ("x.wav", noise(seconds, seed))


@pytest.mark.parametrize("seconds", [1.0, 5.0])
def test_transcriptions_are_those_of_the_pipeline(client, transcribe, seconds):
    want = transcribe(noise(seconds), language="de")["text"]
    found = client.audio.transcriptions.create(model="whisper-1", file=sound(seconds), language="de")
    assert found.text == want and want
    text = client.audio.transcriptions.create(
        model="whisper-tiny", file=sound(seconds), language="de", response_format="text"
    )
    assert text.strip() == want
    stream = client.audio.transcriptions.create(model="whisper-1", file=sound(seconds), language="de", stream=True)
    *deltas, done = list(stream)
    assert {event.type for event in deltas} == {"transcript.text.delta"} and done.type == "transcript.text.done"
    assert done.text == want and "".join(event.delta for event in deltas).strip() == want


def test_times(client, transcribe):
    want = transcribe(noise(5.0), language="en", return_timestamps=True)
    options = {"model": "whisper-1", "file": sound(5.0), "language": "en"}
    found = client.audio.transcriptions.create(**options, response_format="verbose_json")
    assert found.duration == 5.0 and found.language == "en" and found.text == want["text"]
    assert [(s.start, s.end, s.text) for s in found.segments] == [
        (min(5, chunk["timestamp"][0]), min(5, chunk["timestamp"][1]), chunk["text"]) for chunk in want["chunks"]
    ]
    srt = client.audio.transcriptions.create(**options, response_format="srt").strip().split("\n\n")
    vtt = client.audio.transcriptions.create(**options, response_format="vtt").strip().split("\n\n")
    assert len(srt) == len(found.segments) and vtt[0] == "WEBVTT" and len(vtt) == len(srt) + 1
    number, times, _ = srt[0].split("\n")
    first = found.segments[0]
    assert number == "1" and times == f"{clock(first.start, ',')} --> {clock(first.end, ',')}"
    assert clock(3725.0625, ".") == "01:02:05.062"


def test_the_language_is_found_and_translated_from(client, transcribe):
    found = client.audio.transcriptions.create(model="whisper-1", file=sound(1.0), response_format="verbose_json")
    assert found.language in ("en", "de")
    assert found.text == transcribe(noise(1.0), return_timestamps=True, task="transcribe")["text"]
    english = client.audio.translations.create(model="whisper-1", file=sound(1.0))
    assert english.text == transcribe(noise(1.0), task="translate")["text"]


def test_refusals_come_as_openais_errors(client, served):
    bad = {"model": "whisper-1", "file": ("x.wav", b"RIFF no sound")}
    with pytest.raises(openai.BadRequestError, match="damaged or no sound"):
        client.audio.transcriptions.create(**bad)
    with pytest.raises(openai.BadRequestError, match="x-klingon"):
        client.audio.transcriptions.create(model="whisper-1", file=sound(1.0), language="x-klingon")
    with pytest.raises(openai.APIStatusError, match="longer than the limit") as refused:
        client.audio.transcriptions.create(model="whisper-1", file=sound(21.0))
    assert refused.value.status_code == 413
    for told, wrong in {
        "takes response_format=verbose_json": {"timestamp_granularities": ["word"]},
        "takes response_format=json": {"include": ["logprobs"], "response_format": "text"},
        "'word' or 'segment'": {"timestamp_granularities": ["letter"], "response_format": "verbose_json"},
    }.items():
        with pytest.raises(openai.BadRequestError, match=told):
            client.audio.transcriptions.create(model="whisper-1", file=sound(1.0), **wrong)


def test_times_of_words(client, transcribe, loaded, monkeypatch):
    model = loaded.find("whisper-tiny", ()).model
    options = {"model": "whisper-1", "file": sound(5.0), "language": "en", "response_format": "verbose_json"}
    want = transcribe(noise(5.0), language="en", return_timestamps="word")
    words = [word for chunk in want["chunks"] for word in chunk["words"]]
    found = client.audio.transcriptions.create(**options, timestamp_granularities=["word"])
    assert found.text == want["text"] and found.segments is None and len(words) > 3
    assert [(w.word, w.start, w.end, w.depth) for w in found.words] == [
        (w["text"], min(5.0, w["start"]), min(5.0, w["end"]), w["depth"]) for w in words
    ]
    both = client.audio.transcriptions.create(**options, timestamp_granularities=["word", "segment"])
    assert both.words == found.words and len(both.segments) == len(want["chunks"])
    assert model.config._attn_implementation == "sdpa", "other requests go on as before"
    monkeypatch.delattr(model.generation_config, "alignment_heads")
    with pytest.raises(openai.BadRequestError, match="whisper-tiny says nowhere by which of its heads"):
        client.audio.transcriptions.create(**options, timestamp_granularities=["word"])


@pytest.mark.parametrize("seconds", [1.0, 5.0])
def test_log_probabilities(client, loaded, seconds):
    served = loaded.find("whisper-tiny", ())
    options = {"model": "whisper-1", "file": sound(seconds), "language": "en", "extra_body": {"threshold": 2}}
    found = client.audio.transcriptions.create(**options, include=["logprobs"])
    assert "".join(one.token for one in found.logprobs).strip() == found.text
    assert all(bytes(map(int, one.bytes)).decode() == one.token for one in found.logprobs)
    # At full depth they are the plain model's: of its own raw logits, for the first window.
    pipe = deed.pipeline("transcribe", served.model, processor=served.processor)
    inputs = pipe.collate(pipe.pieces(noise(seconds), {}))
    short = seconds < 2
    out = served.model.generate(
        input_features=inputs["input_features"][..., :200],
        **{"language": "en", "task": "transcribe", "exit_threshold": 2.0, "return_timestamps": not short},
        **{"return_dict_in_generate": True, "output_logits": True, "return_segments": True},
    )
    if not short:  # the first window's
        out = out["segments"][0][0]["result"]
    chances = torch.stack(out["logits"]).reshape(-1, served.model.config.vocab_size).log_softmax(-1)
    tokens = out["sequences"].flatten()[-len(chances) :]
    wanted = [
        float(row[token])
        for row, token in zip(chances, tokens, strict=True)
        if served.tokenizer.decode([token], skip_special_tokens=True)
    ]
    count = len(wanted) if short else 3
    assert [one.logprob for one in found.logprobs[:count]] == pytest.approx(wanted[:count], abs=1e-4)
    *_, done = client.audio.transcriptions.create(**options, include=["logprobs"], stream=True)
    assert [one.token for one in done.logprobs] == [one.token for one in found.logprobs]
    again = [one.logprob for one in found.logprobs]
    assert [one.logprob for one in done.logprobs] == pytest.approx(again, abs=1e-4)
    verbose = client.audio.transcriptions.create(**options, response_format="verbose_json")
    assert all(segment.avg_logprob < 0 and segment.temperature == 0 for segment in verbose.segments)


def test_speech_with_every_tokens_depth(http, transcribe):
    body = {"files": {"audio": noise(1.0)}, "data": {"model": "whisper-tiny"}}
    found = http.post("/generate", **body).json()
    assert (
        found["text"] == transcribe(noise(1.0), task="transcribe")["text"] and found["mean_depth"] and found["tokens"]
    )


def test_other_rates_and_channels_are_understood(client):
    import io
    import wave

    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE // 2)
        file.writeframes(np.zeros(RATE, np.int16).tobytes())
    found = client.audio.transcriptions.create(
        model="whisper-1", file=("a", out.getvalue()), response_format="verbose_json", language="en"
    )
    assert found.duration == pytest.approx(1.0, abs=0.01)


@pytest.fixture(scope="module")
def libre(served):
    return LibreTranslateAPI(served.url)


def test_translations_are_those_of_the_pipeline(libre, loaded, http):
    served = loaded.find(None, ("translate",))
    translate = deed.pipeline("translate", served.model, processor=served.processor)
    text = "good morning\ngood night"
    want = translate(text, src_lang="en", tgt_lang="de")["translation_text"]
    assert libre.translate(text, "en", "de") == want
    many = http.post("/translate", json={"q": [text, "hello"], "source": "en", "target": "de"}).json()
    assert many["translatedText"] == [want, translate("hello", src_lang="en", tgt_lang="de")["translation_text"]]


def test_languages_and_detection(libre, http):
    codes = {language["code"]: language for language in libre.languages()}
    assert set(codes) == {"de", "en", "fr", "ro"} and set(codes["de"]["targets"]) == set(codes)
    assert libre.detect("Guten Morgen, wie geht es Ihnen heute?")[0]["language"] == "de"
    assert libre.detect("Good morning, how are you today?")[0]["language"] == "en"
    body = {"q": "Guten Morgen, wie geht es Ihnen?", "source": "auto", "target": "en"}
    found = http.post("/translate", json=body).json()
    assert found["detectedLanguage"]["language"] == "de" and found["detectedLanguage"]["confidence"] > 50


def test_refusals_come_as_libretranslates_errors(libre, http):
    with pytest.raises(urllib.error.HTTPError) as refused:
        libre.translate("hello", "en", "tlh")
    assert refused.value.code == 400
    told = http.post("/translate", json={"q": "hello", "source": "en", "target": "tlh"}).json()
    assert "no language 'tlh'" in told["error"]
    assert http.post("/translate", json={"q": ["x"] * 65, "target": "de"}).json()["error"].startswith("q is a text")
