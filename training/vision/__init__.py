"""The vision models: pictures, training, folders to ship, and what they are measured by."""
