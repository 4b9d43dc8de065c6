-- Two contacts that the platform says are one person become one.

-- Since when a handle leads to another contact than it was made for. Such a contact has older conversations under
-- other keys, so what is loaded with it is not all there is.
ALTER TABLE customer_handles ADD COLUMN moved_at timestamptz;
