"""Pictures in chats: read under limits, made into embeddings by a projector (mmproj), known by digest."""
