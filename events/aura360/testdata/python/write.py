"""Writes the samples beside it the way the platform's Python services do:
dataclasses turned into dicts, naive UTC times, json.dumps with its defaults.

    cd events/aura360/testdata/python && python3 write.py
"""

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Optional

NOW = datetime(2025, 1, 7, 12, 34, 56, 123456)


@dataclass
class BaseEvent:
    event_type: str
    event_id: str = "6f1c2a52-9c5e-4a3f-8f43-0d4c6d1f7a10"
    timestamp: str = NOW.isoformat()
    trace_id: Optional[str] = None
    user_id: Optional[str] = "user-123"
    metadata: dict = field(default_factory=dict)


def event(event_type: str, own: dict[str, Any], **base: Any) -> dict[str, Any]:
    return asdict(BaseEvent(event_type=event_type, **base)) | own


SAMPLES = {
    "mood_created": event(
        "user.mood.created",
        {
            "data": {
                "mood_id": "mood-9",
                "mood_score": 7.5,
                "tags": ["feliz", "café ☕", "🙂"],
                "notes": None,
                "created_at": NOW.replace(microsecond=0).isoformat(),
                "energy_level": 10,
                "source": {"app": "ios", "build": 12345678901234567890},
            }
        },
        metadata={"origin": "mobile", "snowflake": 1234567890123456789, "ratio": 0.1},
    ),
    "activity_created": event(
        "user.activity.created",
        {"data": {"activity_type": "running", "duration": 30, "calories": 312.5, "distance_km": 5.0}},
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    ),
    "ikigai_updated": event(
        "user.ikigai.updated",
        {"data": {"passions": ["música"], "missions": [], "vocations": None, "professions": ["médico"]}},
    ),
    "profile_updated": event(
        "user.profile.updated",
        {"data": {"name": "José", "age": 41, "weight": 70.0, "external_id": 9007199254740993, "address": None}},
    ),
    "context_aggregated": event(
        "context.aggregated",
        {
            "context_data": {
                "user_id": "user-123",
                "snapshot_type": "mood",
                "timeframe": "24h",
                "timestamp": NOW.isoformat() + "+00:00",
                "source_event": "user.mood.created",
                "mood_summary": {"avg": 7.0, "n": 1, "tags": {"feliz": 1}},
                "activity_summary": None,
                "text_representation": "Ánimo: 7.0/10",
                "topics": ["mente"],
            }
        },
    ),
    "context_vectorized": event(
        "context.vectorized",
        {
            "context_data": {
                "user_id": "user-123",
                "snapshot_type": "activity",
                "timeframe": "7d",
                "timestamp": str(NOW),
                "source_event": "user.activity.created",
                "activity_summary": {"minutes": 30},
                "text_representation": "Corrió 30 minutos",
            },
            "vectors": [[0.1, -0.2, 1e-07], [1, 0.0, 3.141592653589793]],
            "embedding_model": "text-embedding-3-small",
            "embedding_version": "2024-01",
        },
    ),
    "guardian_request": event(
        "guardian.request",
        {
            "guardian_type": "mental",
            "query": "¿Cómo duermo mejor?",
            "context": {"locale": "es", "history": [{"role": "user", "content": "hola"}]},
            "request_id": "0b0c6e2e-7a3b-4f06-9f0e-0a5a6b1c2d3e",
        },
        user_id=None,
    ),
    "guardian_response": event(
        "guardian.response",
        {
            "guardian_type": "holistic",
            "request_id": "0b0c6e2e-7a3b-4f06-9f0e-0a5a6b1c2d3e",
            "response": "Respira.\n\tDescansa.",
            "confidence_score": 0,
            "retrieval_context": [{"doc_id": "d1", "score": 0.87}],
            "processing_time_ms": 1234.567,
        },
    ),
    "guardian_response_chunk": event(
        "guardian.response.chunk",
        {
            "guardian_type": "spiritual",
            "request_id": "0b0c6e2e-7a3b-4f06-9f0e-0a5a6b1c2d3e",
            "chunk": "",
            "sequence": 0,
            "is_final": False,
        },
    ),
    "vector_ingest_requested": event(
        "vectordb.ingest.requested",
        {
            "collection_name": "user_context",
            "vectors": [[0.5, 0.25]],
            "payloads": [{"user_id": "user-123", "chunk": 0, "text": None}],
            "ingest_id": "7d444840-9dc0-11d1-b245-5ffdce74fad2",
        },
    ),
    "vector_ingest_completed": event(
        "vectordb.ingest.completed",
        {
            "collection_name": "user_context",
            "ingest_id": "7d444840-9dc0-11d1-b245-5ffdce74fad2",
            "num_vectors": 0,
            "processing_time_ms": 15,
        },
    ),
    "vector_ingest_failed": event(
        "vectordb.ingest.failed",
        {
            "collection_name": "user_context",
            "ingest_id": "7d444840-9dc0-11d1-b245-5ffdce74fad2",
            "error_message": "connection refused",
            "error_type": "ConnectionError",
            "retry_count": 3,
        },
    ),
}

for name, sample in SAMPLES.items():
    with open(f"{name}.json", "w") as f:
        f.write(json.dumps(sample))
